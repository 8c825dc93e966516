"""Corrections of captions, and what later runs and all that reads captions make of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import raycap
from raycap.config import CaptionConfig, EditsMode, PrepareConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import open_dataset
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter
from raycap.errors import ConfigError, RunConflict
from raycap.results.captioning import OutputStatus, Verification
from raycap.schema import CAPTIONS_LIST, IMAGE_ID
from raycap.storage.stores import open_store
from tests.support.cli import InProcess
from tests.support.commandline import rows_of, write_images

pytestmark = pytest.mark.usefixtures("ray_session")

NAMES = [f"{number:06d}.jpg" for number in range(6)]


def settings(**sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("engine", {"part_size": 4})
    return validate_config(CaptionConfig, sections)


def exported(output: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Give the rows that an export has, by image."""
    file = output.parent / "exported.jsonl"
    raycap.export(output, file, to="jsonl", existing="overwrite", **options)
    rows = map(json.loads, file.read_text().splitlines())
    return {row["image_id"]: row for row in rows}


def edit(row: dict[str, Any], action: EditAction, new: str | None = None, **of: Any) -> Edit:
    """Give an edit of a row, as a page that shows the row makes it."""
    seen = {"old": row["caption"], "digest": row["digest"], "etag": row["etag"]}
    return Edit(image_id=row["image_id"], action=action, new=new, **{**seen, **of})


def review(output: Path) -> None:
    """Correct the first caption, approve the second, reject the third."""
    rows = {row["image_id"]: row for row in rows_of(output)}
    writer = EditWriter(open_store(str(output), StorageConfig()), by="ann")
    writer.save([edit(rows[NAMES[0]], EditAction.TEXT, "Corrected by Ann.")])
    writer.save([edit(rows[NAMES[1]], EditAction.APPROVE)])
    writer.save([edit(rows[NAMES[2]], EditAction.REJECT)])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Give an output of six images, of which three are reviewed."""
    write_images(tmp_path / "photos", 6)
    (tmp_path / "photos" / NAMES[5]).write_bytes(b"no image")
    raycap.caption(tmp_path / "photos", tmp_path / "out", config=settings())
    review(tmp_path / "out")
    return tmp_path / "out"


def marks(row: dict[str, Any]) -> tuple[bool, str | None, bool]:
    return row["edited"], row["review"], row["stale"]


def test_edits_outlive_later_runs_and_are_not_put_over_a_changed_image(output: Path) -> None:
    photos, before = output.parent / "photos", rows_of(output)
    files = {file: file.read_bytes() for file in (output / "captions").iterdir()}
    assert exported(output)[NAMES[0]]["caption"] == "Corrected by Ann."
    assert {file: file.read_bytes() for file in (output / "captions").iterdir()} == files

    raycap.caption(photos, output, config=settings())  # the same again
    raycap.caption(photos, output, config=settings(), retry_failed=True)
    with pytest.raises(RunConflict):
        raycap.caption(photos, output, config=settings(generation={"prompt": "another"}))
    assert marks(exported(output)[NAMES[0]]) == (True, "edited", False)

    Image.new("RGB", (32, 24), "red").save(photos / NAMES[0])
    (photos / NAMES[1]).touch()  # another version of the same image
    raycap.caption(photos, output, config=settings())
    rows = exported(output)
    now = {row["image_id"]: row for row in rows_of(output)}
    assert now[NAMES[0]]["caption"] != before[0]["caption"]
    assert rows[NAMES[0]]["caption"] == now[NAMES[0]]["caption"]
    assert marks(rows[NAMES[0]]) == (False, None, True)
    assert now[NAMES[1]]["etag"] != before[1]["etag"]
    assert marks(rows[NAMES[1]]) == (False, "approved", False)

    history = raycap.list_edits(output, image=NAMES[0])
    assert [one.edit.new for one in history] == ["Corrected by Ann."]
    writer = EditWriter(open_store(str(output), StorageConfig()), by="bob")
    writer.save([edit(now[NAMES[0]], EditAction.TEXT, "Corrected by Ann.")])  # confirmed again
    assert marks(exported(output)[NAMES[0]]) == (True, "edited", False)


def test_other_rules_for_the_text_leave_a_text_and_outdate_an_approval(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    output = tmp_path / "out"
    raycap.caption(tmp_path / "photos", output, config=settings(text={"keep_answer": True}))
    review(output)
    loud = settings(text={"keep_answer": True, "case": "upper"})
    raycap.caption(tmp_path / "photos", output, config=loud, again="text")
    rows = exported(output)
    assert rows[NAMES[0]]["caption"] == "Corrected by Ann."
    assert [marks(rows[name]) for name in NAMES[:3]] == [
        (True, "edited", False),
        (False, None, True),
        (False, None, True),
    ]


def test_named_prompts_are_corrected_one_by_one(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 2)
    output = tmp_path / "out"
    first = settings(prompts={"short": "In short:"})
    raycap.caption(tmp_path / "photos", output, config=first)
    row = exported(output)[NAMES[0]]
    writer = EditWriter(open_store(str(output), StorageConfig()), by="ann")
    writer.save([edit(row, EditAction.TEXT, "Short.", prompt="short")])
    both = settings(prompts={"short": "In short:", "long": "At length:"})
    raycap.caption(tmp_path / "photos", output, config=both)  # a further prompt
    assert exported(output)[NAMES[0]]["caption"] == "Short."
    assert exported(output, prompt="long")[NAMES[0]]["caption"] != "Short."
    raycap.export(output, tmp_path / "tars", to="webdataset", prompt="long")
    report = raycap.report([output], tmp_path / "report.html")
    assert "Short." in Path(report.path).read_text()


def test_what_reads_captions_reads_them_as_they_were_corrected(
    output: Path, cli: InProcess
) -> None:
    run = {row["image_id"]: row["caption"] for row in rows_of(output)}
    assert {name: row["caption"] for name, row in exported(output, edits="ignore").items()} == run
    assert "edited" not in exported(output, edits="ignore")[NAMES[0]]
    only = exported(output, edits=EditsMode.ONLY)
    assert sorted(only) == NAMES[:2]
    fine = exported(output, where="review is distinct from 'rejected'")
    assert sorted(fine) == [*NAMES[:2], *NAMES[3:]]
    assert fine[NAMES[0]]["caption"] == "Corrected by Ann."
    shown = exported(output, columns="image_id, review", edits="ignore")
    assert {row["review"] for row in shown.values()} == {None}

    references = output.parent / "references.jsonl"
    lines = [{"image_id": name, "caption": "Corrected by Ann."} for name in NAMES]
    references.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bleu = {}
    for mode in EditsMode:
        found = raycap.evaluate([output], references, edits=mode, missing="drop")
        bleu[mode] = found.systems[0].metrics[0].value or 0.0
        assert found.systems[0].edits == ("" if mode is EditsMode.IGNORE else mode)
        assert found.num_images == (2 if mode is EditsMode.ONLY else 5)
    assert bleu[EditsMode.IGNORE] < bleu[EditsMode.APPLY] < bleu[EditsMode.ONLY]

    page = Path(raycap.report([output], output.parent / "report.html").path).read_text()
    assert "Corrected by Ann." in page
    assert "edited by people" in page
    few = raycap.report([output], output.parent / "few.html", edits="only")
    assert few.num_examples == 2
    plain = raycap.report([output], output.parent / "plain.html", edits="ignore")
    assert "Corrected by Ann." not in Path(plain.path).read_text()

    state = raycap.status(output)
    assert isinstance(state, OutputStatus)
    assert state.edits == {"approved": 1, "edited": 1, "rejected": 1}
    code, out, _ = cli("status", output)
    assert code == 0
    assert "1 approved, 1 edited, 1 rejected" in out
    code, _, _ = cli("export", output, output.parent / "x.csv", "--to", "csv", "--edits", "only")
    assert code == 0


def test_a_dataset_to_train_on_is_made_of_corrected_captions(output: Path) -> None:
    tmp_path = output.parent
    record = raycap.prepare(output, tmp_path / "dataset")
    dataset = open_dataset(tmp_path / "dataset", StorageConfig())
    pages = dataset.pages(list(record.splits), [IMAGE_ID, CAPTIONS_LIST])
    found = {row[IMAGE_ID]: row[CAPTIONS_LIST] for page in pages for row in page.to_pylist()}
    captions = {row["image_id"]: [row["caption"]] for row in rows_of(output)}
    assert found == {
        NAMES[0]: ["Corrected by Ann."],
        **{name: captions[name] for name in (NAMES[1], *NAMES[3:5])},
    }
    assert record.format == "raycap"
    assert record.rejected_images == {"no_caption": 2}  # rejected by Ann, and not captioned
    assert raycap.prepare(output, tmp_path / "dataset").created_at == record.created_at
    only = raycap.prepare(output, tmp_path / "only", config=PrepareConfig(edits=EditsMode.ONLY))
    assert only.num_images == 2
    with pytest.raises(RunConflict):  # another choice is another dataset
        raycap.prepare(output, tmp_path / "only", edits="ignore")
    EditWriter(open_store(str(output), StorageConfig()), by="bob").undo("000000001-000001")
    with pytest.raises(RunConflict):  # the captions have changed
        raycap.prepare(output, tmp_path / "dataset")
    with pytest.raises(ConfigError) as caught:
        raycap.prepare(output, tmp_path / "images", images=tmp_path / "photos")
    assert caught.value.setting == "images"


def test_an_output_is_verified_with_its_edits(output: Path) -> None:
    found = raycap.verify(output)
    assert isinstance(found, Verification)
    assert (found.is_complete, found.num_edits, found.notes) == (True, 3, [])
    writer = EditWriter(open_store(str(output), StorageConfig()), by="ann")
    writer.save([Edit(image_id="elsewhere.jpg", action=EditAction.APPROVE)])
    found = raycap.verify(output)
    assert isinstance(found, Verification)
    assert found.is_complete
    assert "'elsewhere.jpg'" in found.notes[0]
    file = output / "edits" / "000000002.jsonl"
    file.write_bytes(file.read_bytes()[:20])
    found = raycap.verify(output)
    assert isinstance(found, Verification)
    assert not found.is_sound
    assert str(file) in found.problems[0]
