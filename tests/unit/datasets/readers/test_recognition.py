"""The format that a source is recognised as, and errors where there is none."""

import json
import os
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from raycap.config import PrepareConfig
from raycap.config.loading import validate_config
from raycap.console.prepare import prepare
from raycap.datasets.readers import open_annotations
from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import ConfigError, DatasetError
from tests.support.annotated import CONFIG, format_of, read, write
from tests.support.caption_sets import folder_rows, make_dataset, picture

ROW = '{"file_name": "1.jpg", "caption": "x"}\n'
COCO = json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []})
KARPATHY = json.dumps({"images": [{"filename": "1.jpg", "sentences": []}]})
INSTANCES = json.dumps({"annotations": [{"image_id": 1, "bbox": []}]})


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["captions_val2014.json"], AnnotationFormat.COCO),
        (["annotations/captions_val2014.json", "val2014/1.jpg"], AnnotationFormat.COCO),
        (["dataset_coco.json", "1.jpg"], AnnotationFormat.KARPATHY),
        (["captions.txt", "Images/1.jpg"], AnnotationFormat.FLICKR),
        (["metadata.jsonl", "1.jpg", "1.txt"], AnnotationFormat.METADATA),
        (["train/metadata.jsonl", "train/1.jpg"], AnnotationFormat.METADATA),
        (["1.jpg", "1.txt", "sub/2.png"], AnnotationFormat.SIDECAR),
        (["0.parquet"], AnnotationFormat.TABLE),
        (["0.tar"], AnnotationFormat.WEBDATASET),
    ],
)
def test_folders_are_recognised_by_what_is_in_them(
    tmp_path: Path, files: list[str], found: AnnotationFormat
) -> None:
    contents = {".jsonl": ROW, "captions.txt": "1.jpg#0\tx\n", "coco.json": KARPATHY, ".json": COCO}
    for name in files:
        content = next((c for suffix, c in contents.items() if name.endswith(suffix)), "x")
        write(tmp_path, {name: content})
    assert format_of(tmp_path) == found
    assert format_of(f"{tmp_path}/") == format_of(f"file://{tmp_path}") == found


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("anything.json", COCO, AnnotationFormat.COCO),
        ("anything.json", KARPATHY, AnnotationFormat.KARPATHY),
        ("anything.json", f"[{ROW}]", AnnotationFormat.TABLE),
        ("anything.jsonl", ROW, AnnotationFormat.TABLE),
        ("metadata.jsonl", ROW, AnnotationFormat.METADATA),
        ("anything.txt", "1.jpg#0\tx\n", AnnotationFormat.FLICKR),
        ("anything.csv", "image,caption\n", AnnotationFormat.TABLE),
        ("anything.csv", "image_name| comment_number| comment\n", AnnotationFormat.FLICKR),
        ("anything.TSV", "image\tcaption\n", AnnotationFormat.TABLE),
        ("anything.parquet", "", AnnotationFormat.TABLE),
        ("anything.tar", "", AnnotationFormat.WEBDATASET),
    ],
)
def test_files_are_recognised_by_name_and_beginning(
    tmp_path: Path, name: str, content: str, found: AnnotationFormat
) -> None:
    write(tmp_path, {name: content})
    assert format_of(tmp_path / name) == found


def test_of_several_coco_files_those_of_captions_are_read(tmp_path: Path) -> None:
    write(
        tmp_path, {"annotations/captions_val2014.json": COCO, "annotations/boxes.json": INSTANCES}
    )
    assert {row["image_id"] for row in read(tmp_path)} == {"1.jpg"}


def test_a_folder_without_captions_is_an_error_with_all_formats(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"1.jpg": "x", "model.json": '{"layers": 3}'})
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert caught.value.uri == str(tmp_path)
    for word in (
        "COCO captions JSON",
        "Karpathy",
        "captions.txt",
        "metadata.jsonl",
        ".tar",
        *FORMATS,
    ):
        assert word in message
    assert "\n" not in message


FORMATS = tuple(AnnotationFormat)


def test_the_command_line_offers_every_format() -> None:
    choices, none = get_args(get_type_hints(prepare)["format"])
    assert none is type(None)
    assert set(get_args(choices)) == set(FORMATS)


def test_a_source_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    for source in (str(tmp_path / "nowhere"), "https://host"):
        with pytest.raises(ConfigError) as caught:
            read(source)
        assert caught.value.uri == source


def test_the_error_for_an_unknown_file_lists_the_formats(tmp_path: Path) -> None:
    write(tmp_path, {"1.jpg": "x", "notes.json": '{"a": 1}', "half.json": '{"images": ['})
    for name in ("1.jpg", "notes.json"):
        with pytest.raises(ConfigError, match=", ".join(FORMATS)) as refused:
            read(tmp_path / name)
        assert refused.value.uri == str(tmp_path / name)
    with pytest.raises(DatasetError, match=r"byte .*JSON") as caught:
        read(tmp_path / "half.json")
    assert caught.value.uri == str(tmp_path / "half.json")


@pytest.mark.parametrize("kind", set(AnnotationFormat) - {AnnotationFormat.SIDECAR})
def test_a_given_format_must_be_there(tmp_path: Path, kind: AnnotationFormat) -> None:
    write(tmp_path, {"1.jpg": "x"})
    with pytest.raises((ConfigError, DatasetError)) as caught:
        read(tmp_path, kind)
    assert caught.value.uri == str(tmp_path)
    with pytest.raises(ConfigError, match=kind) as refused:
        read(tmp_path / "1.jpg", kind)
    assert refused.value.uri == str(tmp_path / "1.jpg")


def test_a_caption_dataset_is_not_a_source_of_another(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "1.jpg")
    config = validate_config(PrepareConfig, {})
    make_dataset(tmp_path / "dataset", folder_rows(tmp_path / "photos"), config)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "dataset")
    assert caught.value.uri == str(tmp_path / "dataset")
    assert not any(name in str(caught.value) for name in FORMATS), "no format would help"


def state_of(source: Path) -> str:
    return open_annotations(str(source), CONFIG).state()


def test_the_state_of_a_file_is_that_of_its_content(tmp_path: Path) -> None:
    row = '{"file_name": "1.jpg", "caption": "x"}\n'
    write(tmp_path, {"metadata.jsonl": row, "1.jpg": "x"})
    before = state_of(tmp_path)
    os.utime(tmp_path / "metadata.jsonl", (1, 1))
    write(tmp_path, {"2.jpg": "x"})
    assert state_of(tmp_path) == before
    write(tmp_path, {"metadata.jsonl": row * 2})
    assert state_of(tmp_path) != before


@pytest.mark.parametrize("name", ["2.jpg", "2.txt", "1.txt"])
def test_the_state_of_a_folder_is_that_of_the_files_that_are_read(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path, {"1.jpg": "x", "1.txt": "x"})
    before = state_of(tmp_path)
    write(tmp_path, {"out/dataset.json": "{}", "notes.md": "x"})
    assert state_of(tmp_path) == before
    write(tmp_path, {name: "changed"})
    assert state_of(tmp_path) != before


def test_the_state_of_a_file_covers_the_files_that_are_read_with_it(tmp_path: Path) -> None:
    write(tmp_path, {"Flickr8k.token.txt": "1.jpg#0\tx\n", "1.jpg": "x"})
    before = state_of(tmp_path)
    write(tmp_path, {"Flickr_8k.testImages.txt": "1.jpg\n"})
    assert state_of(tmp_path) != before
