"""WebDataset tars, written by hand, by the library itself and by `raycap export`'s own rules."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import ConfigError, DatasetError
from tests.support.annotated import brief, captions, format_of, read, write

Members = list[tuple[str, bytes]]
SAMPLES: Members = [
    ("0/a.jpg", b"image a"),
    ("0/a.txt", b"one\ntwo"),
    ("0/b.cls", b"7"),
    ("0/b.json", json.dumps({"captions": ["three", 4, "five"], "id": 9}).encode()),
    ("0/b.txt", b"not this one"),
    ("0/b.png", b"image b"),
    ("c.jpg", b"image c"),
]


def tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return path


def test_members_of_one_name_are_one_sample(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", SAMPLES)
    rows = read(path)
    assert format_of(path) == format_of(tmp_path) == AnnotationFormat.WEBDATASET
    assert captions(rows) == [
        ("0/a.jpg", "one"),
        ("0/a.jpg", "two"),
        ("0/b.png", "three"),
        ("0/b.png", "4"),
        ("0/b.png", "five"),
        ("c.jpg", None),
    ]
    data = path.read_bytes()
    for row in rows:
        assert row["uri"] == str(path)
        start = row["offset_bytes"]
        letter = row["image_id"].rpartition("/")[2][0]
        assert data[start : start + row["size_bytes"]] == f"image {letter}".encode()
    assert read(tmp_path) == rows


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "train-0.tar")) as sink:
        for number in range(3):
            sample = {"__key__": f"{number:06d}", "jpg": b"x" * number, "txt": f"text {number}"}
            sink.write(sample)
            sink.write(
                {"__key__": f"j{number}", "png": b"y", "json": {"caption": f"json {number}"}}
            )
    rows = read(tmp_path)
    assert sorted(captions(rows)) == [
        *((f"00000{number}.jpg", f"text {number}") for number in range(3)),
        *((f"j{number}.png", f"json {number}") for number in range(3)),
    ]
    assert {row["split"] for row in rows} == {"train"}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-000000.tar", "val-000000.tar"], ["train", "validation"]),
        (["train/0.tar", "test/0.tar"], ["test", "train"]),
        (["train-0.tar", "other-0.tar"], [None, "train"]),
    ],
)
def test_splits_come_from_the_names_of_the_tars(
    tmp_path: Path, names: list[str], splits: list[str | None]
) -> None:
    for name in names:
        key = name.replace("/", "-")
        tar(tmp_path / name, [(f"{key}.jpg", b"x"), (f"{key}.txt", b"text")])
    assert [row["split"] for row in read(tmp_path)] == splits


def test_splits_come_from_folders_within_a_tar(tmp_path: Path) -> None:
    members = [(f"{folder}/1.jpg", b"x") for folder in ("train", "valid", "more")]
    tar(tmp_path / "a.tar", members)
    assert [row["split"] for row in read(tmp_path)] == ["train", "validation", None]


def test_every_image_is_named_by_its_tar_too(tmp_path: Path) -> None:
    for name in ("a/0.tar", "1.tar"):
        tar(tmp_path / name, [("0.jpg", b"x")])
    assert [row["source_id"] for row in read(tmp_path)] == ["1/0.jpg", "a/0/0.jpg"]


def test_dotted_names_are_other_fields_of_a_sample_or_images_of_their_own(tmp_path: Path) -> None:
    members: Members = [
        ("a.jpg", b"x"),
        ("a.seg.png", b"mask"),
        ("a.txt", b"of a"),
        ("st.john.jpg", b"x"),
        ("st.john.txt", b"of a saint"),
    ]
    path = tar(tmp_path / "a.tar", members)
    assert captions(read(path)) == [("a.jpg", "of a"), ("st.john.jpg", "of a saint")]


def test_unusable_captions_are_looked_for_in_the_next_field(tmp_path: Path) -> None:
    members: Members = [
        ("a.jpg", b"x"),
        ("a.json", b'{"caption": true}'),
        ("a.txt", b"from the text"),
        ("b.jpg", b"x"),
        ("b.json", b"{damaged"),
        ("c.jpg", b"x"),
        ("c.json", b"[" * 100_000),
        ("c.caption", b"caf\xe9"),
        ("d.txt", b"of no image"),
    ]
    path = tar(tmp_path / "a.tar", members)
    assert brief(read(path), "image_id", "uri", "caption") == [
        ("a.jpg", str(path), "from the text"),
        ("b.jpg", str(path), None),
        ("c.jpg", str(path), None),
        ("d", None, "of no image"),
    ]


def test_links_are_read_where_their_targets_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:
        header = tarfile.TarInfo("x/a.jpg")
        header.size = 7
        file.addfile(header, io.BytesIO(b"image a"))
        for name, kind, target in (
            ("x/b.jpg", tarfile.LNKTYPE, "x/a.jpg"),
            ("y/c.jpg", tarfile.SYMTYPE, "../x/a.jpg"),
            ("y/d.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            file.addfile(link)
    places = dict(brief(read(path), "image_id", "offset_bytes"))
    assert places == {"x/a.jpg": 512, "x/b.jpg": 512, "y/c.jpg": 512, "y/d.jpg": None}
    assert {r["image_id"]: r["uri"] for r in read(path)}["y/d.jpg"] is None


def test_names_that_are_not_utf_8_are_percent_encoded(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT
    ) as file:
        for name, data in (("caf\xe9.jpg", b"x"), ("caf\xe9.txt", b"a cafe")):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    assert captions(read(tmp_path)) == [("caf%E9.jpg", "a cafe")]


@pytest.mark.parametrize("cut", [1, 600, 1500, 2600, 4000])
def test_a_truncated_tar_is_an_error_and_not_a_shorter_tar(tmp_path: Path, cut: int) -> None:
    path = tar(tmp_path / "a.tar", SAMPLES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError, match=r"byte [\d,]+") as caught:
        read(path)
    assert caught.value.uri == str(path)


def test_a_compressed_tar_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(DatasetError, match="uncompressed") as caught:
        read(tmp_path / "a.tar")
    assert caught.value.uri == str(tmp_path / "a.tar")


def test_tars_contain_their_images(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", SAMPLES)
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, images=tmp_path)
    assert refused.value.uri == str(tmp_path)
    with pytest.raises(DatasetError, match=r"\.tar") as caught:
        read(write(tmp_path / "none", {"1.jpg": "x"}), AnnotationFormat.WEBDATASET)
    assert caught.value.uri == str(tmp_path / "none")
