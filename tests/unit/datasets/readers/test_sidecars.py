"""Caption files beside images, a line a caption."""

from pathlib import Path

import pyarrow as pa
import pytest

from raycap.datasets.readers import open_annotations
from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import ConfigError
from tests.support.annotated import BOM, CONFIG, brief, captions, format_of, places, read, write


def test_every_line_of_the_file_beside_an_image_is_a_caption(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/1.jpg": "x",
            "a/1.txt": BOM + "one\r\n\n  two \n",
            "a/2.JPEG": "x",
            "a/2.TXT": "größe",
            "3.webp": "x",
        },
    )
    assert format_of(tmp_path) == AnnotationFormat.SIDECAR
    rows = read(tmp_path)
    assert captions(rows) == [
        ("3.webp", None),
        ("a/1.jpg", "one"),
        ("a/1.jpg", "two"),
        ("a/2.JPEG", "größe"),
    ]
    assert places(rows, tmp_path) == {key: key for key in ("3.webp", "a/1.jpg", "a/2.JPEG")}


def test_files_that_are_no_captions_are_kept_to_be_rejected(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "1.jpg": "x",
            "1.txt": b"caf\xe9",
            "2.jpg": "x",
            "2.txt": "",
            "3.jpg": "x",
            "3.txt": "x" * 2_000_000,
            "4.jpg": "x",
            "4.txt": "no mark".encode("utf-16-le"),
            "alone.txt": "of no image",
            ".hidden.txt": "x",
            "._1.jpg": "x",
        },
    )
    assert {row["image_id"] for row in read(tmp_path) if row["fault"]} == {
        "1.jpg",
        "3.jpg",
        "4.jpg",
    }
    assert brief(read(tmp_path), "image_id", "uri", "caption") == [
        ("1.jpg", f"{tmp_path}/1.jpg", None),
        ("2.jpg", f"{tmp_path}/2.jpg", ""),
        ("3.jpg", f"{tmp_path}/3.jpg", None),
        ("4.jpg", f"{tmp_path}/4.jpg", None),
        ("alone.txt", None, "of no image"),
    ]


def test_folders_named_like_splits_are_splits(tmp_path: Path) -> None:
    folders = ("train", "images/dev")
    write(tmp_path, {f"{above}/1.{kind}": "x" for above in folders for kind in ("jpg", "txt")})
    assert brief(read(tmp_path), "image_id", "split") == [
        ("images/dev/1.jpg", "validation"),
        ("train/1.jpg", "train"),
    ]
    write(tmp_path, {"more/train/1.jpg": "x", "train.jpg": "x"})
    assert dict(brief(read(tmp_path), "image_id", "split")) == {
        "images/dev/1.jpg": "validation",
        "more/train/1.jpg": None,
        "train.jpg": None,
        "train/1.jpg": "train",
    }


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, {"1.jpg": "x", "1.txt": "größe\n猫".encode(encoding)})
    assert captions(read(tmp_path)) == [("1.jpg", "größe"), ("1.jpg", "猫")]


def test_the_first_line_alone_may_be_the_caption(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": "x", "1.txt": "\n one \nuno\n猫", "2.jpg": "x", "2.txt": ""})
    found = open_annotations(str(tmp_path), CONFIG, lines="first")
    rows = pa.concat_tables(found.tables).to_pylist()
    assert captions(rows) == [("1.jpg", "one"), ("2.jpg", "")]


def test_images_that_share_a_name_have_the_captions_of_their_whole_names(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": "x", "1.png": "x", "1.jpg.txt": "a photo", "1.txt": "a drawing"})
    assert captions(read(tmp_path)) == [("1.jpg", "a photo"), ("1.png", "a drawing")]


def test_images_may_be_in_another_folder(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts", {"a/1.txt": "one", "a/2.txt": "two"})
    images = write(tmp_path / "images", {"a/1.jpg": "x"})
    rows = read(texts, AnnotationFormat.SIDECAR, images=images)
    assert brief(rows, "image_id", "uri", "caption") == [
        ("a/1.jpg", f"{images}/a/1.jpg", "one"),
        ("a/2.txt", None, "two"),
    ]


def test_images_without_any_captions_are_no_annotations(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": "x", "notes.txt": "to do"})
    with pytest.raises(ConfigError, match=r" \.txt ") as caught:
        read(tmp_path)
    assert caught.value.uri == str(tmp_path)
