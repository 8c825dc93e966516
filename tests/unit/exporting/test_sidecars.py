"""Sidecars: their suffix and names, several captions, and files of people that exist already."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycap.config import ExportFormat, StorageConfig
from raycap.datasets.readers.sidecars import captions_in
from raycap.errors import ConfigError
from raycap.exporting.export import export
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import failed, files_under, row, write_output

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output

TWO = [{"caption": "a dog,\nrunning", "logprob": -1.0}, {"caption": "a cat", "logprob": -2.0}]


def sidecars(uri: str, folder: Path, **choice: Any) -> dict[str, str]:
    export(uri, folder, to="sidecar", **choice)
    return files_under(folder)


def test_sidecars_have_the_suffix_and_the_names_that_a_tool_wants(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a/x.jpg", "one"), row("a/x.png", "two"), row("y", "three")])
    assert sidecars(uri, tmp_path / "1", suffix=".caption") == {
        "a/x.jpg.caption": "one\n",
        "a/x.png.caption": "two\n",
        "y.caption": "three\n",
    }
    assert sidecars(uri, tmp_path / "2", naming="full") == {
        "a/x.jpg.txt": "one\n",
        "a/x.png.txt": "two\n",
        "y.txt": "three\n",
    }
    counts = export(uri, tmp_path / "3", to="sidecar", suffix=".caption", same_stem="first")
    assert set(files_under(tmp_path / "3")) == {"a/x.caption", "y.caption"}
    assert (counts.num_exported, counts.num_failed_skipped) == (2, 0)


@pytest.mark.parametrize("suffix", ["", "txt", ".", "..", "./x", ".a/b", "." + "x" * 40, ".a\n"])
def test_what_is_no_suffix_is_refused(
    suffix: str, output: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        export(output([row("a.jpg")]), tmp_path / "x", to="sidecar", suffix=suffix)
    assert caught.value.setting == "suffix"


def test_long_names_have_room_for_a_long_suffix(output: Callable[..., str], tmp_path: Path) -> None:
    uri = output([row("n" * 251), row("n" * 250 + "m")])
    suffix = ".a-suffix-of-32-characters-in-all"[:32]
    for naming in ("stem", "full"):
        assert len(sidecars(uri, tmp_path / naming, suffix=suffix, naming=naming)) == 2


@pytest.mark.parametrize(
    ("name", "value", "to"),
    [
        ("suffix", ".x", "xmp"),
        ("naming", "full", "metadata"),
        ("layout", "root", "sidecar"),
        ("layout", "root", "csv"),
    ],
)
def test_an_option_of_another_format_is_refused(
    name: str, value: str, to: str, output: Callable[..., str], tmp_path: Path
) -> None:
    choice: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError) as caught:
        export(output([row("a.jpg")]), tmp_path / "x", to=to, **choice)
    assert caught.value.setting == name


def test_several_captions_are_a_line_each(output: Callable[..., str], tmp_path: Path) -> None:
    uri = output([row("a.jpg", "a red\r\ndog", alternatives=TWO), row("b.jpg", ""), failed("c")])
    assert sidecars(uri, tmp_path / "x", columns="caption, alternatives") == {
        "a.txt": "a red dog\na dog, running\na cat\n",
        "b.txt": "\n",
    }


def test_a_list_of_tags_is_one_line_and_nothing_is_no_file(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg"), row("b.jpg")])
    (tmp_path / "t.jsonl").write_text('{"image_id": "a.jpg", "n": 5, "tags": "dog"}\n')
    choice: dict[str, Any] = {"join": tmp_path / "t.jsonl", "columns": "tags, n"}
    counts = export(uri, tmp_path / "x", to="sidecar", **choice)
    assert files_under(tmp_path / "x") == {"a.txt": "dog\n5\n"}
    assert (counts.num_exported, counts.num_failed_skipped) == (1, 1)


STANDING = {
    "a.txt": b"mine",
    "b.txt": b"mine\r\nthe caption\r\n",
    "c.txt": b" \n",
    "d.txt": b"\xef\xbb\xbfmine\n",
    "e.txt": b"caf\xe9\n",
    "f.txt": b"the caption\n",
}
CHANGED: dict[str, dict[str, bytes]] = {
    "skip": {},
    "import": {"c.txt": b" \nthe caption\n"},
    "append": {
        "a.txt": b"mine\nthe caption\n",
        "c.txt": b" \nthe caption\n",
        "d.txt": b"\xef\xbb\xbfmine\nthe caption\n",
    },
    "overwrite": dict.fromkeys(STANDING, b"the caption\n"),
}


@pytest.mark.parametrize("existing", CHANGED)
def test_sidecars_of_people_are_treated_as_asked(
    existing: str, output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(f"{name}.jpg", "the caption") for name in "abcdefg"])
    folder = tmp_path / "x"
    folder.mkdir()
    for name, data in STANDING.items():
        (folder / name).write_bytes(data)
    expected = STANDING | CHANGED[existing] | {"g.txt": b"the caption\n"}
    for is_repeated in (False, True):
        counts = export(uri, folder, to="sidecar", existing=existing)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
        if not is_repeated:
            assert counts.num_exported + counts.num_kept == 7
    assert not list(tmp_path.rglob("*.raycap-tmp"))


def test_a_folder_in_the_place_of_a_sidecar_is_kept(
    output: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "x" / "a.txt").mkdir(parents=True)
    uri = output([row("a.jpg")])
    assert export(uri, tmp_path / "x", to="sidecar", existing="skip").num_kept == 1


def test_sidecars_of_any_store_are_added_to(output: Callable[..., str], tmp_path: Path) -> None:
    uri = output([row("a.jpg", "one")])
    target = f"memory://{tmp_path.name}/x"
    store = open_store(target, StorageConfig())
    store.write("a.txt", b"mine\n")
    export(uri, target, to="sidecar", existing="append")
    assert store.read("a.txt") == b"mine\none\n"


def test_an_export_that_was_killed_is_continued_and_adds_nothing_twice(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output(*([row(f"{part}-{n}.jpg", "new") for n in range(150)] for part in range(4)))
    folder = tmp_path / "x"
    folder.mkdir()
    names = [f"{part}-{n}.txt" for part in range(4) for n in range(150)]
    for name in names:
        (folder / name).write_text("mine\n")
    command = [sys.executable, "-m", "raycap", "export", uri, str(folder), "--to", "sidecar"]
    with subprocess.Popen([*command, "--existing", "append"]) as process:
        ends = time.monotonic() + 60
        while (folder / "0-20.txt").read_text() == "mine\n":
            assert time.monotonic() < ends
            time.sleep(0.005)
        process.kill()
    found = {(folder / name).read_text() for name in names}
    assert found <= {"mine\n", "mine\nnew\n"}, "no file is half-written"
    counts = export(uri, folder, to="sidecar", existing="append")
    assert {(folder / name).read_text() for name in names} == {"mine\nnew\n"}
    assert counts.num_exported + counts.num_kept == len(names)
    assert counts.num_kept > 0


lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(texts=st.lists(lines.filter(str.strip), min_size=1, max_size=4))
def test_captions_in_lines_are_read_back_equal(texts: list[str], tmp_path: Path) -> None:
    store = open_store(f"memory://{tmp_path.name}-{abs(hash(tuple(texts)))}", StorageConfig())
    alternatives = [{"caption": text, "logprob": -1.0} for text in texts[1:]]
    uri = write_output(store, [row("a.jpg", texts[0], alternatives=alternatives)])
    export(uri, uri, to=ExportFormat.SIDECAR, columns="caption,alternatives")
    found = [caption.text for caption in captions_in(store.read("a.txt"))]
    assert found == [text.strip() for text in texts]
