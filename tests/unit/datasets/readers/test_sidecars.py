"""Caption files beside images, a line a caption."""

from pathlib import Path

import pytest

from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import ConfigError
from tests.support.annotated import BOM, brief, captions, format_of, places, read, write


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
            "alone.txt": "of no image",
            ".hidden.txt": "x",
            "._1.jpg": "x",
        },
    )
    assert brief(read(tmp_path), "image_id", "uri", "caption") == [
        ("1.jpg", f"{tmp_path}/1.jpg", None),
        ("2.jpg", f"{tmp_path}/2.jpg", ""),
        ("3.jpg", f"{tmp_path}/3.jpg", None),
        ("alone.txt", None, "of no image"),
    ]


def test_folders_named_like_splits_are_splits_if_all_are(tmp_path: Path) -> None:
    write(
        tmp_path, {f"{word}/1.{kind}": "x" for word in ("train", "dev") for kind in ("jpg", "txt")}
    )
    assert brief(read(tmp_path), "image_id", "split") == [
        ("dev/1.jpg", "validation"),
        ("train/1.jpg", "train"),
    ]
    write(tmp_path, {"more/1.jpg": "x"})
    assert {row["split"] for row in read(tmp_path)} == {None}


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
    with pytest.raises(ConfigError, match=r"images with a \.txt each"):
        read(tmp_path)
