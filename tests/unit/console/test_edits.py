"""`raycap edits list`, `undo` and `export`, on an output written by hand."""

import csv
import json
from pathlib import Path

import pytest

import raycap
from raycap.config import StorageConfig
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter, new_batch
from raycap.errors import ConfigError
from raycap.storage.stores import open_store
from tests.support.cli import InProcess
from tests.support.outputs import row, write_output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Give an output with one text and a batch of two."""
    store = open_store(str(tmp_path / "out"), StorageConfig())
    write_output(store, [row("a.jpg"), row("b.jpg"), row("c.jpg")])
    writer = EditWriter(store, by="ann")
    text = {"action": EditAction.TEXT, "old": "a cat on a mat", "etag": "1-2"}
    writer.save([Edit(image_id="a.jpg", new="=SUM(1)", **text)])  # type: ignore[arg-type]
    batch = new_batch()
    writer.save(
        [
            Edit(image_id=f"{name}.jpg", new="A dog.", batch=batch, **text)  # type: ignore[arg-type]
            for name in "bc"
        ]
    )
    return tmp_path / "out"


def captions(output: Path) -> list[str]:
    file = output.parent / "x.jsonl"
    raycap.export(output, file, to="jsonl", existing="overwrite")
    return [json.loads(line)["caption"] for line in file.read_text().splitlines()]


def test_edits_are_listed_as_json_and_as_a_table(output: Path, cli: InProcess) -> None:
    code, out, _ = cli("edits", "list", output, "--json", "--last", 2)
    assert code == 0
    found = json.loads(out)
    assert found["num_edits"] == 3
    assert [one["image_id"] for one in found["edits"]] == ["b.jpg", "c.jpg"]
    assert not any(one["is_undone"] for one in found["edits"])
    code, out, err = cli("edits", "list", output, "--by", "ann", "--last", 1)
    assert code == 0
    assert "b.jpg" in out
    assert "1 earlier" in err
    assert [one.edit.image_id for one in raycap.list_edits(output, image="c.jpg")] == ["c.jpg"]
    assert raycap.list_edits(output, by="bob") == []


def test_a_batch_is_one_row_with_an_id_that_can_be_copied(output: Path, cli: InProcess) -> None:
    first, second, _ = raycap.list_edits(output)
    _, out, err = cli("edits", "list", output)
    rows = out.splitlines()
    assert [line.split()[0] for line in rows if line[0] != " "] == [
        "edit",
        first.edit.edit_id,
        second.edit.batch,
    ]
    assert "c.jpg" not in out
    assert "earlier" not in err
    cli("edits", "undo", output, second.edit.edit_id)
    assert "1 of them" in cli("edits", "list", output)[1]
    assert "1 of them" not in cli("edits", "list", output, "--image", "b.jpg")[1]


def test_an_edit_a_batch_and_all_of_a_reviewer_are_undone(output: Path, cli: InProcess) -> None:
    assert captions(output) == ["=SUM(1)", "A dog.", "A dog."]
    first, second, _ = raycap.list_edits(output)
    assert cli("edits", "undo", output, first.edit.edit_id)[0] == 0
    assert captions(output) == ["a cat on a mat", "A dog.", "A dog."]
    assert cli("edits", "undo", output, second.edit.batch)[0] == 0
    assert captions(output) == ["a cat on a mat"] * 3
    undoing = raycap.list_edits(output)[-1].edit
    assert cli("edits", "undo", output, undoing.edit_id)[0] == 0
    assert captions(output) == ["a cat on a mat", "A dog.", "A dog."]
    assert cli("edits", "undo", output, "--by", "ann", "--since", "2020-01-01")[0] == 0
    assert captions(output) == ["a cat on a mat"] * 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["000000009-000001"],
        ["--since", "2020-01-01"],
        ["--by", "ann", "--since", "yesterday"],
        ["--by", "bob"],
        ["000000001-000001", "--by", "ann"],
    ],
)
def test_undoing_nothing_that_there_is_is_wrong_usage(
    output: Path, cli: InProcess, arguments: list[str]
) -> None:
    code, _, err = cli("edits", "undo", output, *arguments)
    assert code == 2
    assert err.startswith("error:")
    assert len(list((output / "edits").iterdir())) == 2


def test_edits_are_exported_and_no_file_is_overwritten(output: Path, cli: InProcess) -> None:
    first = raycap.list_edits(output)[0].edit.edit_id
    raycap.undo_edits(output, [first])
    table, lines = output.parent / "edits.csv", output.parent / "edits.jsonl"
    assert cli("edits", "export", output, table)[0] == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [one["undone"] for one in rows] == ["True", "False", "False", "False"]
    assert rows[0]["new"] == "'=SUM(1)"  # a spreadsheet would run it
    assert raycap.export_edits(output, lines) == 4
    assert json.loads(lines.read_text().splitlines()[-1])["undoes"] == first
    for destination in (lines, output.parent / "edits.txt"):
        with pytest.raises(ConfigError) as caught:
            raycap.export_edits(output, destination)
        assert caught.value.uri == str(destination)
    assert raycap.export_edits(output, lines, existing="overwrite") == 4
    with pytest.raises(ConfigError) as caught:
        raycap.export_edits(output, lines, existing="append")
    assert caught.value.setting == "existing"


def test_only_outputs_of_captioning_have_edits(output: Path, cli: InProcess) -> None:
    assert cli("edits", "list", output / "captions")[0] == 1
    assert cli("edits", "list", output.parent / "nothing")[0] == 2


def test_texts_are_copied_to_the_same_images_of_another_output(
    output: Path, tmp_path: Path, cli: InProcess
) -> None:
    writer = EditWriter(open_store(str(output), StorageConfig()), by="ann")
    approved = Edit(image_id="b.jpg", action=EditAction.APPROVE, old="A dog.", etag="1-2")
    writer.save([approved])
    other = open_store(str(tmp_path / "other"), StorageConfig())
    changed = {**row("c.jpg", "a boat"), "etag": "9-9"}
    write_output(other, [row("a.jpg", "a boat"), row("b.jpg", "a boat"), changed])
    code, out, _ = cli("edits", "copy", output, tmp_path / "other")
    assert code == 0
    assert out.split()[:5] == ["copied", "2", "image", "differs", "1"]
    assert captions(tmp_path / "other") == ["=SUM(1)", "A dog.", "a boat"]
    states = {one.edit.image_id: one.edit for one in raycap.list_edits(tmp_path / "other")}
    assert {name: edit.action for name, edit in states.items()} == {
        "a.jpg": EditAction.TEXT,
        "b.jpg": EditAction.APPROVE,
    }
    assert raycap.copy_edits(output, tmp_path / "other").num_reviewed == 2
    cli("edits", "undo", tmp_path / "other", states["a.jpg"].batch)
    assert captions(tmp_path / "other") == ["a boat"] * 3


def test_copied_texts_leave_edits_that_are_there(output: Path, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"), StorageConfig())
    write_output(other, [row("a.jpg", "a boat"), row("d.jpg", "a boat")])
    writer = EditWriter(other, by="bob")
    own = Edit(image_id="a.jpg", action=EditAction.TEXT, old="a boat", new="A ship.", etag="1-2")
    writer.save([own])
    found = raycap.copy_edits(output, tmp_path / "other", reviewer="eve")
    assert (found.num_copied, found.num_reviewed, found.num_missing) == (0, 1, 2)
    assert found.batch == ""
    assert captions(tmp_path / "other") == ["A ship.", "a boat"]
