"""Export to sidecars: names of files, and untrusted ids."""

import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raycap.config import ExportFormat
from raycap.errors import ConfigError
from raycap.exporting import names
from raycap.exporting.export import export
from raycap.exporting.names import SidecarNames, safe_path
from tests.support import outputs
from tests.support.outputs import AWKWARD, failed, files_under, row

# The fixtures of tests/outputs.py, which pytest looks for under these names.
output = outputs.output
two_parts = outputs.two_parts


def test_sidecars_mirror_the_image_tree(two_parts: str, tmp_path: Path) -> None:
    counts = export(two_parts, tmp_path / "x", to=ExportFormat.SIDECAR)
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (3, 1, 3)
    assert files_under(tmp_path / "x") == {
        "a/1.txt": "a cat on a mat\n",
        "b/3.txt": AWKWARD + "\n",
        "b/ü 4.txt": "\n",
    }


def test_images_that_would_share_a_sidecar_all_use_their_full_names(
    output: Callable[..., str], tmp_path: Path
) -> None:
    names = ["a.jpg", "a.png", "b.jpg", "c", "c.gif", "d/e.jpg", "d/e.jpg.png", "f.x.jpg"]
    uri = output([row(n, n) for n in names[:4]], [row(n, n) for n in names[4:]])
    export(uri, tmp_path / "x", to=ExportFormat.SIDECAR)
    assert files_under(tmp_path / "x") == {
        "a.jpg.txt": "a.jpg\n",
        "a.png.txt": "a.png\n",
        "b.txt": "b.jpg\n",
        "c.gif.txt": "c.gif\n",
        "c.txt": "c\n",
        "d/e.jpg.png.txt": "d/e.jpg.png\n",  # `d/e.jpg.txt` could be that of d/e.jpg
        "d/e.txt": "d/e.jpg\n",
        "f.x.txt": "f.x.jpg\n",
    }


@pytest.mark.parametrize(
    ("same_stem", "files"),
    [
        ("suffix", {"a.jpg.txt": "a.jpg", "a.png.txt": "a.png", "b.txt": "b.jpg"}),
        ("first", {"a.txt": "a.jpg", "b.txt": "b.jpg"}),
    ],
)
def test_images_of_the_same_stem_are_told_and_named_as_asked(
    same_stem: str, files: dict[str, str], output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(name, name) for name in ("a.jpg", "a.png", "b.jpg")])
    counts = export(uri, tmp_path / "x", to=ExportFormat.SIDECAR, same_stem=same_stem)
    assert files_under(tmp_path / "x") == {name: f"{text}\n" for name, text in files.items()}
    assert (counts.num_exported, counts.num_same_stem) == (len(files), 2)
    assert counts.num_failed_skipped == 0
    assert len(counts.notes) == 1


def test_the_first_of_a_stem_is_the_first_with_a_caption(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([failed("a.jpg"), row("a.png", "png")], [row("a.webp", "webp")])
    export(uri, tmp_path / "x", to=ExportFormat.SIDECAR, same_stem="first")
    assert files_under(tmp_path / "x") == {"a.txt": "png\n"}


def test_images_of_the_same_stem_are_refused_if_asked(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg"), row("a.png")])
    with pytest.raises(ConfigError, match=r"a\.jpg, a\.png") as caught:
        export(uri, tmp_path / "x", to=ExportFormat.SIDECAR, same_stem="error")
    assert caught.value.setting == "same_stem"
    assert files_under(tmp_path / "x") == {}
    other = output([row("a.jpg"), row("a.jpg.png")])
    assert export(other, tmp_path / "x", to="sidecar", same_stem="error").notes == ()


def test_edited_sidecars_are_kept_and_the_others_written(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(name, name) for name in ("a.jpg", "b.jpg", "c.jpg")])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("edited\n")
    (tmp_path / "x" / "b.txt").write_text("b.jpg\n")  # as it would be written
    counts = export(uri, tmp_path / "x", to=ExportFormat.SIDECAR, existing="skip")
    assert files_under(tmp_path / "x") == {
        "a.txt": "edited\n",
        "b.txt": "b.jpg\n",
        "c.txt": "c.jpg\n",
    }
    assert (counts.num_exported, counts.num_kept, counts.num_failed_skipped) == (2, 1, 0)


@pytest.mark.parametrize("to", ["csv", "coco", "webdataset"])
def test_what_a_format_cannot_do_with_existing_files_is_refused(
    to: str, output: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        export(output([row("a.jpg")]), tmp_path / "x", to=to, existing="append")
    assert caught.value.setting == "existing"


def test_former_flags_of_python_still_work(output: Callable[..., str], tmp_path: Path) -> None:
    uri = output([row("a.jpg", "new")])
    old: Any = export
    (tmp_path / "a.txt").write_text("edited\n")
    with pytest.warns(DeprecationWarning, match="existing"):
        assert old(uri, tmp_path, to="sidecar", force=False, keep_existing=True).num_kept == 1
    with pytest.warns(DeprecationWarning, match="existing"):
        assert old(uri, tmp_path, to="sidecar", force=True).num_kept == 0
    assert (tmp_path / "a.txt").read_text() == "new\n"
    with pytest.raises(TypeError):
        old(uri, tmp_path, to="sidecar", force=True, existing="skip")


def test_a_full_name_never_meets_the_stem_of_another_image(
    output: Callable[..., str], tmp_path: Path
) -> None:
    names = ["a.jpg", "a.jpg.png", "a.png"]
    export(output([row(n, n) for n in names]), tmp_path / "x", to=ExportFormat.SIDECAR)
    assert files_under(tmp_path / "x") == {f"{name}.txt": f"{name}\n" for name in names}


def test_a_failed_image_does_not_seem_to_have_the_sidecar_of_its_neighbour(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg"), failed("a.png")])
    export(uri, tmp_path / "x", to=ExportFormat.SIDECAR)
    assert list(files_under(tmp_path / "x")) == ["a.jpg.txt"]


def test_sidecars_can_stand_beside_the_images_and_be_exported_again(
    output: Callable[..., str], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_text("jpeg")
    (images / "readme.txt").write_text("mine")
    uri = output([row("a.jpg")])
    for _ in range(2):
        assert export(uri, images, to=ExportFormat.SIDECAR).num_exported == 1
    assert files_under(images) == {
        "a.jpg": "jpeg",
        "a.txt": "a cat on a mat\n",
        "readme.txt": "mine",
    }


def test_sidecars_never_replace_foreign_files_without_force(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(f"{n}.jpg", "mine") for n in range(9)])
    folder = tmp_path / "x"
    folder.mkdir()
    for n in range(1, 8):
        (folder / f"{n}.txt").write_text("theirs, and longer")
    (folder / "8.txt").mkdir()
    before = files_under(folder)
    with pytest.raises(ConfigError, match=r"\b8 .*\(1\.txt, .*5\.txt, \.\.\.\)"):
        export(uri, folder, to=ExportFormat.SIDECAR)
    assert files_under(folder) == before
    (folder / "8.txt").rmdir()
    export(uri, folder, to=ExportFormat.SIDECAR, existing="overwrite")
    assert set(files_under(folder).values()) == {"mine\n"}


HOSTILE = [
    "../../escape.jpg",
    "/etc/passwd.jpg",
    "..",
    ".",
    "",
    "a/../../../b.jpg",
    "a//b.jpg",
    "C:\\Windows\\x.jpg",
    "nul\x00byte.jpg",
    "two\nlines.jpg",
    "https://host/path/x.jpg?a=1&b=2",
    "s3://bucket/key.png",
    "ü" * 300 + ".jpg",
    "n" * 247 + ".jpg",
    "deep/" * 700 + "x.jpg",
    "%2E%2E/x.jpg",
]


def test_no_image_id_leads_out_of_the_destination(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row(name) for name in HOSTILE])
    root = tmp_path / "root"
    folder = root / "inner" / "x"
    folder.mkdir(parents=True)
    (folder / "foreign.md").write_text("makes the export look before it writes")
    (root / "escape.txt").write_text("bait")
    for _ in range(2):
        assert export(uri, folder, to=ExportFormat.SIDECAR).num_exported == len(HOSTILE)
    assert len(files_under(root)) == len(HOSTILE) + 2
    assert len(files_under(folder)) == len(HOSTILE) + 1
    assert (folder / "https%3A/%2Fhost/path/x.txt").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a/b/c.jpg",
        ".hidden",
        "...",
        "..a/b..",
        "100%.jpg",
        "50%off.jpg",
        "Bild vom 12.3. 10:30 Uhr (2).JPG",
        "日本語/写真😀.png",
        "a~b+c,d;e=f@g#h?i*j'k\"l.jpg",
        "n" * 247 + ".jpg",
    ],
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_path(name) == name


@given(st.lists(st.text(), unique=True, max_size=6))
@example(HOSTILE)
@example(["a//b", "a/%2Fb", "a/\x00/b", "%", "%%", "%25", "%2525", "", "~", "%7E", "/", "//"])
@example(["x" * 300, "x" * 301, "x" * 300 + "/y", "d/" * 500 + "a", "d/" * 500 + "b"])
def test_paths_of_any_ids_are_relative_harmless_and_distinct(names: list[str]) -> None:
    paths = [safe_path(name) for name in names]
    assert len(set(paths)) == len(names)
    for name, path in zip(names, paths, strict=True):
        parts = path.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert posixpath.normpath(path) == path
        assert max(len(part.encode()) for part in parts) <= 251
        assert len(path.encode()) <= 900
        assert not any(c < " " or c in "\x7f\x85\\" for c in path)
        if name and len(name.encode()) < 80:
            assert unquote(path) == name  # nothing is lost, so nothing can be mixed up


name_parts = st.sampled_from(["a", "b", ".jpg", ".png", "/", ".", "%", "\n"])


@given(st.lists(st.lists(name_parts, max_size=5).map("".join), unique=True, max_size=12))
def test_sidecar_names_are_always_distinct(names: list[str]) -> None:
    found = SidecarNames([names[:5], names[5:]])
    keys = [key for key, _ in found.of(names, set())]
    assert len(set(keys)) == len(names)
    for name, key in zip(names, keys, strict=True):
        path = safe_path(name)
        assert key in (f"{path}.txt", f"{posixpath.splitext(path)[0]}.txt")


def test_a_shared_hash_makes_names_long_and_never_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OneDigest:
        def __init__(self, _data: bytes, digest_size: int) -> None:
            self._size = digest_size

        def digest(self) -> bytes:
            return b"\1" * self._size

    monkeypatch.setattr(names, "blake2b", OneDigest)
    sidecars = SidecarNames([["a.jpg", "b.jpg"]])
    keys = [key for key, _ in sidecars.of(["a.jpg", "b.jpg"], set())]
    assert keys == ["a.jpg.txt", "b.jpg.txt"]


def test_a_lone_surrogate_is_escaped_as_well() -> None:
    assert safe_path("a\ud800.jpg") == "a%ED%A0%80.jpg"
