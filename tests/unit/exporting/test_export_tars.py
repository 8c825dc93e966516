"""Export to tars: the images with their captions, as the package `webdataset` reads them."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycap import schema
from raycap.config import ExportFormat
from raycap.errors import ConfigError
from raycap.exporting.export import export
from raycap.exporting.formats import image_suffix
from raycap.storage.local import etag_of
from tests.support import outputs
from tests.support.outputs import Part, failed, files_under, row

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output


@pytest.fixture
def photos(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Path:
    for n in range(3):
        make_jpeg(tmp_path / "photos" / f"{n}.v1.JPG", seed=n)
    return tmp_path / "photos"


def photo_rows(photos: Path) -> list[Part]:
    paths = sorted(photos.iterdir())
    first, second, third = (
        row(p.name, f"photo {p.name}", source_uri=str(p), etag=etag_of(p.stat())) for p in paths
    )
    gone = row("gone.jpg", source_uri=str(photos / "gone.jpg"))
    return [[first, failed("bad.jpg"), second], [third, gone]]


def samples_of(tar: Path) -> list[dict[str, Any]]:
    """Read a tar as the package `webdataset` does; the file is ours to close, which it forgets."""
    reader = pytest.importorskip("webdataset.tariterators")
    with tar.open("rb") as stream:
        members = reader.tar_file_expander([{"url": str(tar), "stream": stream}])
        return list(reader.group_by_keys(members))


def test_webdataset_gives_back_the_images_and_captions(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    counts = export(output(*photo_rows(photos)), tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (3, 1, 2)
    assert counts.num_unreadable == 1
    (unreadable,) = counts.unreadable
    assert unreadable.startswith(f"{photos}/gone.jpg: ")
    samples = [s for n in (0, 1) for s in samples_of(tmp_path / "x" / f"part-00000{n}.tar")]
    assert [s["__key__"] for s in samples] == ["000000_000000", "000000_000002", "000001_000000"]
    for sample, path in zip(samples, sorted(photos.iterdir()), strict=True):
        assert sample["jpg"] == path.read_bytes()
        assert sample["txt"].decode() == f"photo {path.name}"
        read = json.loads(sample["json"])
        assert list(read) == schema.CAPTIONS.names
        assert (read["image_id"], read["caption"]) == (path.name, f"photo {path.name}")


def test_tars_are_the_same_bytes_whenever_they_are_written(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    digests = []
    for folder in ("x", "y"):
        export(uri, tmp_path / folder, to=ExportFormat.WEBDATASET)
        tars = sorted((tmp_path / folder).iterdir())
        digests.append([(t.name, hashlib.sha256(t.read_bytes()).hexdigest()) for t in tars])
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "x" / "part-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name.partition(".")[2] for m in members] == ["jpg", "json", "txt"] * 2
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_an_image_that_has_grown_too_large_is_not_cut_but_told(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    run = {"config": {"image": {"max_bytes": 100}}}
    Path(uri, "run.json").write_text(json.dumps(run))
    counts = export(uri, tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_unreadable) == (0, 4)
    assert "100 bytes" in counts.unreadable[0]


@pytest.mark.parametrize(
    ("name", "data", "suffix"),
    [
        ("a.b.JPEG", b"", ".jpeg"),
        ("plain", b"\xff\xd8\xff\xe0", ".jpg"),
        ("https://host/x.php?id=1", b"\x89PNG\r\n\x1a\n", ".png"),
        ("x.txt", b"RIFF....WEBPVP8 ", ".webp"),
        ("x", b"?", ".bin"),
    ],
)
def test_an_image_is_named_by_its_suffix_or_its_first_bytes(
    name: str, data: bytes, suffix: str
) -> None:
    assert image_suffix(name, data) == suffix


def test_standing_tars_are_replaced_only_by_force(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    uri = output(*photo_rows(photos))
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "part-000001.tar").write_text("precious")
    with pytest.raises(ConfigError, match=r"\b1 .*\(part-000001\.tar\)"):
        export(uri, folder, to=ExportFormat.WEBDATASET)
    assert files_under(folder) == {"part-000001.tar": "precious"}
    export(uri, folder, to=ExportFormat.WEBDATASET, existing="overwrite")
    assert [path.name for path in sorted(folder.iterdir())] == [
        "part-000000.tar",
        "part-000001.tar",
    ]


def test_an_image_that_was_replaced_is_not_packed_with_the_old_caption(
    output: Callable[..., str], photos: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    finished = output(*photo_rows(photos))
    make_jpeg(photos / "0.v1.JPG", seed=99)
    (photos / "1.v1.JPG").write_text("no longer an image")
    counts = export(finished, tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_unreadable) == (1, 3)


def test_what_is_no_image_is_not_packed_where_versions_are_not_known(
    output: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    parts = [[{**item, schema.ETAG: None} for item in part] for part in photo_rows(photos)]
    finished = output(*parts)
    (photos / "1.v1.JPG").write_text("no longer an image")
    counts = export(finished, tmp_path / "x", to=ExportFormat.WEBDATASET)
    assert (counts.num_exported, counts.num_unreadable) == (2, 2)
