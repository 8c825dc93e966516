"""COCO captions JSON, joined by numbers in any order, and what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import ConfigError, DatasetError
from tests.support.annotated import BOM, brief, captions, format_of, places, read, write

ITEMS: dict[str, Any] = {
    "info": {"year": 2014},
    "licenses": [{"id": 1}],
    "images": [
        {"id": 9, "file_name": "000000000009.jpg", "width": 640},
        {"id": 5, "file_name": "ü/5 5.jpg", "height": 2},
        {"id": 7, "file_name": "000000000007.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "caption": "five, first\n"},
        {"id": 2, "image_id": 9, "caption": 'nine "quoted" ünïcode 🐈'},
        {"id": 3, "image_id": 5, "caption": ""},
    ],
}


def coco(**changes: Any) -> str:
    return json.dumps(ITEMS | changes)


def test_captions_meet_their_images_in_the_order_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"captions.json": coco()})
    rows = read(tmp_path / "captions.json")
    assert brief(rows, "image_id", "source_id", "caption") == [
        ("000000000009.jpg", "9", 'nine "quoted" ünïcode 🐈'),
        ("ü/5 5.jpg", "5", "five, first\n"),
        ("ü/5 5.jpg", "5", ""),
        ("000000000007.jpg", "7", None),
    ]
    assert {row["uri"] for row in rows if row["source_id"] == "5"} == {f"{tmp_path}/ü/5 5.jpg"}
    assert {(row["offset_bytes"], row["size_bytes"], row["split"]) for row in rows} == {
        (None, None, None)
    }


def test_annotations_may_come_first_and_behind_a_byte_order_mark(tmp_path: Path) -> None:
    turned = {name: ITEMS[name] for name in ("annotations", "images", "info")}
    write(tmp_path, {"a.json": BOM + json.dumps(turned), "b.json": coco()})
    assert read(tmp_path / "a.json") == read(tmp_path / "b.json")


def test_captions_of_unknown_images_are_kept_to_be_rejected(tmp_path: Path) -> None:
    lost = [{"image_id": 404, "caption": "of nothing"}, {"caption": "of no image"}, 17, {}]
    write(tmp_path, {"c.json": coco(annotations=lost)})
    assert brief(read(tmp_path / "c.json")[3:], "image_id", "uri", "caption") == [
        ("404", None, "of nothing"),
        ("(annotation 2 of c.json)", None, "of no image"),
        ("(annotation 3 of c.json)", None, None),
        ("(annotation 4 of c.json)", None, None),
    ]


def test_what_is_no_text_becomes_a_row_without_a_caption(tmp_path: Path) -> None:
    wrong = [{"image_id": 9, "caption": value} for value in (True, {"a": 1}, None, [[[["x"]]]])]
    write(tmp_path, {"c.json": coco(annotations=wrong)})
    assert [row["caption"] for row in read(tmp_path / "c.json")[:4]] == [None] * 4


def test_images_without_a_name_or_a_number_are_kept_to_be_rejected(tmp_path: Path) -> None:
    wrong = [{"id": 9}, {"file_name": "a.jpg"}, {"id": [1], "file_name": 3}, "a.jpg"]
    write(tmp_path, {"c.json": coco(images=wrong)})
    assert brief(read(tmp_path / "c.json")[:4], "image_id", "source_id", "uri") == [
        ("9", "9", None),
        ("a.jpg", None, f"{tmp_path}/a.jpg"),
        ("(image 3 of c.json)", None, None),
        ("(image 4 of c.json)", None, None),
    ]


def test_numbers_of_any_kind_are_the_same_number(tmp_path: Path) -> None:
    image = {"id": "9", "file_name": "a.jpg"}
    notes = [{"image_id": 9, "caption": "int"}, {"image_id": 9.0, "caption": "float"}]
    write(tmp_path, {"c.json": coco(images=[image], annotations=notes)})
    assert captions(read(tmp_path / "c.json")) == [("a.jpg", "int"), ("a.jpg", "float")]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2014.json", "train"),
        ("captions_val2017.json", "validation"),
        ("Captions-Test.json", "test"),
        ("captions_dev.json", "validation"),
        ("captions_trainval2014.json", None),
        ("train_and_val.json", None),
        ("latest.json", None),
        ("captions.json", None),
    ],
)
def test_the_split_comes_from_the_name_of_the_file(
    tmp_path: Path, name: str, split: str | None
) -> None:
    write(tmp_path, {name: coco()})
    assert {row["split"] for row in read(tmp_path / name)} == {split}


def test_a_folder_of_files_is_read_whole_and_numbers_count_within_a_file(tmp_path: Path) -> None:
    train = coco(images=[{"id": 1, "file_name": "t.jpg"}], annotations=[])
    notes = [{"image_id": 1, "caption": "v"}]
    val = coco(images=[{"id": 1, "file_name": "v.jpg"}], annotations=notes)
    other = coco(annotations=[{"image_id": 1, "bbox": [0, 0, 1, 1]}])
    write(
        tmp_path,
        {
            "annotations/captions_train2014.json": train,
            "annotations/captions_val2014.json": val,
            "annotations/instances_val2014.json": other,
            "train2014/t.jpg": "x",
            "val2014/v.jpg": "x",
        },
    )
    assert format_of(tmp_path) == AnnotationFormat.COCO
    rows = read(tmp_path)
    assert brief(rows, "image_id", "split", "caption") == [
        ("t.jpg", "train", None),
        ("v.jpg", "validation", "v"),
    ]
    assert places(rows, tmp_path) == {"t.jpg": "train2014/t.jpg", "v.jpg": "val2014/v.jpg"}
    assert read(tmp_path / "annotations") == rows


@pytest.mark.parametrize(
    "place",
    ["train2014/9.jpg", "train/9.jpg", "images/9.jpg", "9.jpg", "images/train2014/9.jpg"],
)
def test_images_are_found_beside_the_file_or_beside_its_folder(tmp_path: Path, place: str) -> None:
    one = coco(images=[{"id": 1, "file_name": "9.jpg"}], annotations=[])
    for file in ("captions_train2014.json", "annotations/captions_train2014.json"):
        root = write(tmp_path / file.replace("/", "-"), {file: one, place: "x"})
        assert places(read(root / file), root) == {"9.jpg": place}


def test_the_folder_of_images_may_be_named(tmp_path: Path) -> None:
    one = coco(images=[{"id": 1, "file_name": "9.jpg"}], annotations=[])
    write(tmp_path, {"a/captions_val2017.json": one, "b/val2017/9.jpg": "x", "c/9.jpg": "x"})
    file = tmp_path / "a/captions_val2017.json"
    assert places(read(file, images=tmp_path / "b"), tmp_path) == {"9.jpg": "b/val2017/9.jpg"}
    assert places(read(file, images=tmp_path / "c"), tmp_path) == {"9.jpg": "c/9.jpg"}
    assert places(read(file, images=tmp_path / "d"), tmp_path) == {"9.jpg": "d/9.jpg"}
    [row] = read(file, images="https://host/images/")
    assert row["uri"] == "https://host/images/9.jpg"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "byte 1: .*JSON"),
        (coco()[:-30], f"byte {len(coco()) - 29}: .*JSON"),
        (coco().replace('"licenses"', "licenses"), "JSON"),
        (coco() + "}", "JSON"),
        ('{"info": 1}', "'images' nor 'annotations'"),
        ("[]", "'list'"),
        ('{"images": [{"sentences": []}]}', "'karpathy'"),
    ],
)
def test_the_error_for_a_damaged_file_is_one_line(tmp_path: Path, content: str, words: str) -> None:
    write(tmp_path, {"c.json": content})
    with pytest.raises(DatasetError, match=words) as caught:
        read(tmp_path / "c.json", AnnotationFormat.COCO)
    assert caught.value.uri == f"{tmp_path}/c.json"
    assert "\n" not in str(caught.value)


def test_a_folder_without_such_a_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"notes.json": "{}", "deep/er/captions.json": coco()})
    with pytest.raises(ConfigError, match="coco") as caught:
        read(tmp_path, AnnotationFormat.COCO)
    assert caught.value.uri == str(tmp_path)


KARPATHY: dict[str, Any] = {
    "images": [
        {
            "filepath": "val2014",
            "filename": "COCO_val2014_1.jpg",
            "cocoid": 1,
            "imgid": 0,
            "split": "restval",
            "sentences": [{"raw": "one\n", "tokens": ["one"]}, {"raw": "two"}],
        },
        {
            "filepath": "train2014",
            "filename": "2.jpg",
            "cocoid": 2,
            "split": "train",
            "sentences": [{"tokens": ["x"]}, {"raw": 4}, "text"],
        },
        {"filename": "3.jpg", "imgid": 3, "split": "val", "sentences": []},
        {"split": "test"},
        4,
    ],
    "dataset": "coco",
}


def test_karpathys_splits_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"dataset_coco.json": json.dumps(KARPATHY)})
    rows = read(tmp_path)
    assert format_of(tmp_path) == AnnotationFormat.KARPATHY
    assert brief(rows, "image_id", "source_id", "split", "caption") == [
        ("val2014/COCO_val2014_1.jpg", "1", "train", "one\n"),
        ("val2014/COCO_val2014_1.jpg", "1", "train", "two"),
        ("train2014/2.jpg", "2", "train", None),
        ("train2014/2.jpg", "2", "train", "4"),
        ("train2014/2.jpg", "2", "train", None),
        ("3.jpg", "3", "validation", None),
        ("(row 4 of dataset_coco.json)", None, "test", None),
        ("(row 5 of dataset_coco.json)", None, None, None),
    ]
    assert {row["uri"] for row in rows if row["image_id"].startswith("(")} == {None}


@pytest.mark.parametrize(
    ("place", "image_id"),
    [
        ("val2014/COCO_val2014_1.jpg", "val2014/COCO_val2014_1.jpg"),
        ("images/val2014/COCO_val2014_1.jpg", "val2014/COCO_val2014_1.jpg"),
        ("images/COCO_val2014_1.jpg", "COCO_val2014_1.jpg"),
        ("COCO_val2014_1.jpg", "COCO_val2014_1.jpg"),
    ],
)
def test_karpathys_images_are_found_with_and_without_their_folders(
    tmp_path: Path, place: str, image_id: str
) -> None:
    write(tmp_path, {"splits/dataset_coco.json": json.dumps(KARPATHY), place: "x"})
    rows = read(tmp_path / "splits")
    assert (image_id, place) in places(rows, tmp_path).items()
    named = tmp_path / place.removesuffix(image_id)
    assert places(read(tmp_path / "splits", images=named), tmp_path) == places(rows, tmp_path)


def test_the_error_for_an_unknown_split_states_its_row(tmp_path: Path) -> None:
    items = {"images": [{"filename": "a.jpg", "sentences": [], "split": "minival"}]}
    write(tmp_path, {"dataset.json": json.dumps(items)})
    with pytest.raises(DatasetError, match=r"row 1 .*'minival'.*\(training, restval\)") as caught:
        read(tmp_path / "dataset.json")
    assert caught.value.uri == str(tmp_path / "dataset.json")


def test_a_file_in_another_format_than_karpathys_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"c.json": coco()})
    with pytest.raises(DatasetError, match="Karpathy") as caught:
        read(tmp_path / "c.json", AnnotationFormat.KARPATHY)
    assert caught.value.uri == str(tmp_path / "c.json")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_python_writes_and_json_lacks_is_nothing(tmp_path: Path, value: str) -> None:
    text = 'a "NaN" \\ and -Infinity'
    images = [{"id": n, "file_name": f"{n}.jpg", "score": "@"} for n in range(3_000)]
    notes = [{"image_id": n, "caption": text, "area": "@"} for n in range(3_000)]
    notes.append({"image_id": 0, "caption": "@"})
    write(tmp_path, {"c.json": coco(images=images, annotations=notes).replace('"@"', value)})
    rows = read(tmp_path / "c.json")
    assert len(rows) == 3_001
    assert [row["caption"] for row in rows[:3]] == [text, None, text]


def test_captions_that_are_numbers_or_lists_are_captions(tmp_path: Path) -> None:
    values: list[Any] = [7, 0.5, ["one", ["two", 3]], [], {}, True]
    notes = [{"image_id": 9, "caption": value} for value in values]
    write(tmp_path, {"c.json": coco(images=ITEMS["images"][:1], annotations=notes)})
    rows = read(tmp_path / "c.json")
    said = ["7", "0.5", "one", "two", "3", None, None, None]
    assert [row["caption"] for row in rows] == said
    assert [row["fault"] is not None for row in rows] == [False] * 6 + [True] * 2


def test_an_image_that_is_given_twice_has_its_captions_once(tmp_path: Path) -> None:
    images = [*ITEMS["images"], *ITEMS["images"], {"id": 5, "file_name": "other.jpg"}]
    write(tmp_path, {"c.json": coco(images=images)})
    assert captions(read(tmp_path / "c.json"))[:4] == [
        ("000000000009.jpg", 'nine "quoted" ünïcode 🐈'),
        ("ü/5 5.jpg", "five, first\n"),
        ("ü/5 5.jpg", ""),
        ("000000000007.jpg", None),
    ]
    entry = {"filename": "1.jpg", "split": "val", "sentences": [{"raw": "one"}, {"raw": "one"}]}
    write(tmp_path, {"k.json": json.dumps({"images": [entry, entry, entry | {"split": "test"}]})})
    assert brief(read(tmp_path / "k.json"), "caption", "split") == [
        *[("one", "validation")] * 2,
        *[("one", "test")] * 2,
    ]


def test_folders_of_splits_count_where_the_file_is_named_after_none(tmp_path: Path) -> None:
    names = ["train2014\\1.jpg", "val2014/2.jpg", "3.jpg"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    write(tmp_path, {"c.json": coco(images=images, annotations=[])})
    assert brief(read(tmp_path / "c.json"), "image_id", "split") == [
        ("train2014/1.jpg", "train"),
        ("val2014/2.jpg", "validation"),
        ("3.jpg", None),
    ]


def test_names_that_are_addresses_are_ids_without_secrets(tmp_path: Path) -> None:
    url = "https://me:planted@h/1.jpg?sig=planted&se=1"
    write(tmp_path, {"c.json": coco(images=[{"id": 9, "file_name": url}], annotations=[])})
    entry = {"filename": url, "split": "val", "sentences": []}
    write(tmp_path, {"k.json": json.dumps({"images": [entry]})})
    write(tmp_path, {"captions.txt": f"{url}#0\ta text\n"})
    for name in ("c.json", "k.json", "captions.txt"):
        assert brief(read(tmp_path / name), "image_id", "uri") == [("https://h/1.jpg", url)]
