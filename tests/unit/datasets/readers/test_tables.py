"""Tables of captions: beside images, alone, in parts; JSON Lines, JSON, CSV, TSV and Parquet."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.datasets.readers import open_annotations
from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.errors import DatasetError
from tests.support.annotated import BOM, CONFIG, brief, captions, format_of, places, read, write

Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"file_name": "a/1.jpg", "caption": 'one, "quoted" ünïcode'},
    {"file_name": "2.jpg", "caption": "two"},
    {"file_name": "a/1.jpg", "caption": "one again"},
]
CAPTIONS = [(row["file_name"], row["caption"]) for row in ROWS]


def json_lines(rows: Rows) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def separated(rows: Rows, separator: str = ",") -> str:
    names = list(rows[0])
    lines = [names, *([row[name] for name in names] for row in rows)]
    quoted = [['"' + value.replace('"', '""') + '"' for value in line] for line in lines]
    return "\r\n".join(map(separator.join, quoted))


def parquet(rows: Rows | pa.Table) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


KINDS: dict[str, Callable[[Rows], str | bytes]] = {
    "jsonl": json_lines,
    "json": json.dumps,
    "csv": separated,
    "tsv": lambda rows: separated(rows, "\t"),
    "parquet": parquet,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_any_kind_is_read_alike(tmp_path: Path, kind: str) -> None:
    write(tmp_path, {f"list.{kind}": KINDS[kind](ROWS)})
    rows = read(tmp_path / f"list.{kind}")
    assert format_of(tmp_path / f"list.{kind}") == AnnotationFormat.TABLE
    assert captions(rows) == CAPTIONS
    assert places(rows, tmp_path) == {"a/1.jpg": "a/1.jpg", "2.jpg": "2.jpg"}
    elsewhere = read(tmp_path / f"list.{kind}", images="s3://bucket/photos/")
    assert elsewhere[0]["uri"] == "s3://bucket/photos/a/1.jpg"


@pytest.mark.parametrize(
    "name", ["metadata.jsonl", "metadata.csv", "captions.jsonl", "metadata.parquet"]
)
def test_a_table_beside_the_images_is_recognised(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: KINDS[name.rpartition(".")[2]](ROWS), "2.jpg": "x"})
    assert format_of(tmp_path) == AnnotationFormat.METADATA
    assert captions(read(tmp_path)) == CAPTIONS
    assert places(read(tmp_path), tmp_path) == {"a/1.jpg": "a/1.jpg", "2.jpg": "2.jpg"}


def test_images_may_be_in_a_folder_of_that_name_beside_the_table(tmp_path: Path) -> None:
    rows = [{"file_name": "1.jpg", "captions": ["one", "two"], "license": "CC BY", "width": 640}]
    write(tmp_path, {"captions.jsonl": json_lines(rows), "images/1.jpg": "x"})
    found = read(tmp_path)
    assert captions(found) == [("1.jpg", "one"), ("1.jpg", "two")]
    assert places(found, tmp_path) == {"1.jpg": "images/1.jpg"}
    assert read(tmp_path / "captions.jsonl") == found


def test_folders_named_like_splits_are_splits(tmp_path: Path) -> None:
    one = json_lines([{"file_name": "1.jpg", "text": "one"}])
    files: dict[str, str | bytes] = {f"{word}/metadata.jsonl": one for word in ("train", "val")}
    write(tmp_path, {**files, "train/1.jpg": "x", "val/1.jpg": "x", "extra/metadata.jsonl": one})
    rows = read(tmp_path)
    assert brief(rows, "image_id", "split") == [
        ("train/1.jpg", "train"),
        ("val/1.jpg", "validation"),
    ]
    assert places(rows, tmp_path) == {"train/1.jpg": "train/1.jpg", "val/1.jpg": "val/1.jpg"}
    moved = write(tmp_path / "moved", {"train/1.jpg": "x"})
    assert read(tmp_path, images=moved)[0]["uri"] == f"{moved}/train/1.jpg"


@pytest.mark.parametrize("kind", KINDS)
def test_splits_come_from_a_column(tmp_path: Path, kind: str) -> None:
    words = ["train", "restval", "VAL", "dev", "Testing", "val2017", " "]
    rows = [{"path": f"{n}.jpg", "caption": "x", "split": w} for n, w in enumerate(words)]
    write(tmp_path, {f"list.{kind}": KINDS[kind](rows)})
    found = [row["split"] for row in read(tmp_path / f"list.{kind}")]
    assert found == ["train", "train", "validation", "validation", "test", "validation", None]


def test_the_error_for_an_unknown_split_states_its_row(tmp_path: Path) -> None:
    rows = [{"path": "1.jpg", "caption": "x", "split": split} for split in ("train", "holdout")]
    write(tmp_path, {"list.csv": separated(rows)})
    with pytest.raises(DatasetError, match=r"row 2 .*'holdout'") as caught:
        read(tmp_path / "list.csv")
    assert caught.value.uri == str(tmp_path / "list.csv")


def test_parts_of_a_table_are_read_as_one_with_the_splits_of_their_names(tmp_path: Path) -> None:
    parts: dict[str, str | bytes] = {
        f"data/{split}-0000{n}-of-00002.parquet": parquet(
            [{"file_name": f"{split}{n}.jpg", "caption": "x"}]
        )
        for split in ("train", "validation")
        for n in range(2)
    }
    write(tmp_path, parts)
    assert format_of(tmp_path) == AnnotationFormat.TABLE
    rows = read(tmp_path)
    assert brief(rows, "image_id", "split") == [
        ("train0.jpg", "train"),
        ("train1.jpg", "train"),
        ("validation0.jpg", "validation"),
        ("validation1.jpg", "validation"),
    ]
    assert places(rows, tmp_path)["train0.jpg"] == "train0.jpg"
    # One file that is named after none takes nothing from the others.
    write(tmp_path, {"data/extra.parquet": parquet([{"file_name": "e.jpg", "caption": "x"}])})
    assert brief(read(tmp_path), "image_id", "split") == [
        ("e.jpg", None),
        *brief(rows, "image_id", "split"),
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "list.json", "list.parquet"])
def test_a_table_above_folders_of_splits_keeps_their_splits(tmp_path: Path, name: str) -> None:
    folders = [
        "train/cats",
        "val",
        "validation",
        "./dev",
        "images/test",
        "data/valid",
        "other",
        "a/train",
    ]
    rows = [{"file_name": f"{folder}/0.jpg", "caption": "x"} for folder in folders]
    rows.append({"file_name": f"{tmp_path}/test/1.jpg", "caption": "x"})
    write(tmp_path, {name: KINDS[name.rpartition(".")[2]](rows), "train/cats/0.jpg": "x"})
    found = [row["split"] for row in read(tmp_path / name)]
    assert found == [
        "train",
        "validation",
        "validation",
        "validation",
        "test",
        "validation",
        None,
        None,
        "test",
    ]


def test_a_row_that_names_another_split_than_its_folder_counts_and_is_told(tmp_path: Path) -> None:
    rows = [
        {"file_name": "train/0.jpg", "caption": "x", "split": "test"},
        {"file_name": "train/1.jpg", "caption": "x", "split": "train"},
        {"file_name": "train/2.jpg", "caption": "x", "split": ""},
    ]
    write(tmp_path, {"metadata.csv": separated(rows)})
    found = open_annotations(str(tmp_path), CONFIG)
    splits = pa.concat_tables(found.tables)["split"].to_pylist()
    assert splits == ["test", "train", "train"]
    (note,) = found.notes.texts()
    assert "train/0.jpg" in note


def test_names_that_windows_wrote_are_paths_unless_there_is_such_a_file(tmp_path: Path) -> None:
    rows = [
        {"file_name": "train\\0.jpg", "caption": "x"},
        {"file_name": "b\\1.jpg", "caption": "y"},
    ]
    write(tmp_path, {"list.jsonl": json_lines(rows)})
    assert brief(read(tmp_path / "list.jsonl"), "image_id", "uri", "split") == [
        ("train/0.jpg", f"{tmp_path}/train/0.jpg", "train"),
        ("b/1.jpg", f"{tmp_path}/b/1.jpg", None),
    ]
    write(tmp_path, {"train\\0.jpg": "x"})
    assert [row["image_id"] for row in read(tmp_path / "list.jsonl")] == [
        "train\\0.jpg",
        "b\\1.jpg",
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_a_table_is_read_in_any_marked_encoding_and_compressed(
    tmp_path: Path, kind: str, encoding: str
) -> None:
    content = KINDS[kind](ROWS)
    assert isinstance(content, str)
    write(
        tmp_path,
        {f"l.{kind}": content.encode(encoding), f"l.{kind}.gz": gzip.compress(content.encode())},
    )
    assert captions(read(tmp_path / f"l.{kind}")) == CAPTIONS
    assert captions(read(tmp_path / f"l.{kind}.gz")) == CAPTIONS


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl"])
def test_lists_nested_without_end_are_texts_or_one_clear_line(tmp_path: Path, name: str) -> None:
    deep = "[" * 100_000
    write(tmp_path, {"l.csv": f"file_name,captions\n1.jpg,{deep}\n"})
    write(tmp_path, {"l.jsonl": f'{{"file_name": "1.jpg", "captions": {deep}'})
    if name == "l.csv":
        assert captions(read(tmp_path / name)) == [("1.jpg", deep)]
    else:
        with pytest.raises(DatasetError, match="row 1"):
            read(tmp_path / name)


def test_whole_addresses_stay_and_secrets_do_not_become_ids(tmp_path: Path) -> None:
    signed = "https://me:pw@host/1.jpg?size=2&X-Amz-Signature=secret"
    rows = [{"url": url, "caption": "x"} for url in (signed, "s3://b/2.jpg", "/abs/3.jpg")]
    write(tmp_path, {"list.jsonl": json_lines(rows)})
    assert brief(read(tmp_path / "list.jsonl"), "image_id", "uri") == [
        ("https://host/1.jpg?size=2", signed),
        ("s3://b/2.jpg", "s3://b/2.jpg"),
        ("/abs/3.jpg", "/abs/3.jpg"),
    ]


def test_a_column_of_ids_names_the_images(tmp_path: Path) -> None:
    rows = [{"Image_ID": 17, "file_name": "./1.jpg", "Sentence": "x"}]
    write(tmp_path, {"list.json": json.dumps(rows), "list.jsonl": BOM + json_lines(rows)})
    for name in ("list.json", "list.jsonl"):
        [row] = read(tmp_path / name)
        assert (row["image_id"], row["uri"]) == ("17", f"{tmp_path}/1.jpg")
    csv = "image_id,caption\n000042.jpg,x\n"
    write(tmp_path, {"list.csv": csv})
    assert captions(read(tmp_path / "list.csv")) == [("000042.jpg", "x")]


def test_lists_of_captions_in_csv_are_read_as_json(tmp_path: Path) -> None:
    rows = [
        {"filename": "1.jpg", "raw": '["one", "two"]'},
        {"filename": "2.jpg", "raw": "[not json"},
        {"filename": "3.jpg", "raw": "three"},
    ]
    write(tmp_path, {"list.csv": separated(rows)})
    assert captions(read(tmp_path / "list.csv")) == [
        ("1.jpg", "one"),
        ("1.jpg", "two"),
        ("2.jpg", "[not json"),
        ("3.jpg", "three"),
    ]


def test_what_is_no_row_or_no_text_is_kept_to_be_rejected(tmp_path: Path) -> None:
    good = {"image": "1.jpg", "captions": ["one", 2, None]}
    rows: list[Any] = [good, 7, ["x"], {"captions": ["orphan"]}, {"image": "2.jpg"}]
    rows += [{"image": "3.jpg", "captions": []}, {"image": {"bytes": "x"}, "captions": "odd"}]
    write(tmp_path, {"list.json": json.dumps(rows)})
    assert brief(read(tmp_path / "list.json"), "image_id", "uri", "caption") == [
        ("1.jpg", f"{tmp_path}/1.jpg", "one"),
        ("1.jpg", f"{tmp_path}/1.jpg", "2"),
        ("1.jpg", f"{tmp_path}/1.jpg", None),
        ("(row 2 of list.json)", None, None),
        ("(row 3 of list.json)", None, None),
        ("(row 4 of list.json)", None, "orphan"),
        ("2.jpg", f"{tmp_path}/2.jpg", None),
        ("3.jpg", f"{tmp_path}/3.jpg", None),
        ("(row 7 of list.json)", None, "odd"),
    ]


def test_a_caption_cut_at_an_unquoted_comma_is_no_caption(tmp_path: Path) -> None:
    write(tmp_path, {"list.csv": "file_name,caption\n1.jpg,a cat, a dog\n2.jpg\n3.jpg,whole\n"})
    assert captions(read(tmp_path / "list.csv")) == [
        ("1.jpg", None),
        ("2.jpg", None),
        ("3.jpg", "whole"),
    ]


def test_failed_rows_of_an_export_are_images_without_a_caption(tmp_path: Path) -> None:
    rows = [
        {"image_id": "1.jpg", "uri": "/in/1.jpg", "status": "ok", "caption": "one"},
        {"image_id": "2.jpg", "uri": "/in/2.jpg", "status": "failed", "caption": "stale"},
    ]
    write(tmp_path, {"export.jsonl": json_lines(rows)})
    assert brief(read(tmp_path / "export.jsonl"), "image_id", "uri", "caption") == [
        ("1.jpg", "/in/1.jpg", "one"),
        ("2.jpg", "/in/2.jpg", None),
    ]


def test_parquet_of_dictionaries_and_large_strings_is_read(tmp_path: Path) -> None:
    texts = pa.array(["x", "y"], pa.large_string()).dictionary_encode()
    lists = pa.array([["one"], ["two", "three"]], pa.large_list(pa.large_string()))
    table = pa.table({"IMAGE": texts, "captions": lists, "pixels": pa.array([b"1", b"2"])})
    write(tmp_path, {"list.parquet": parquet(table)})
    assert captions(read(tmp_path / "list.parquet")) == [("x", "one"), ("y", "two"), ("y", "three")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"file_name": "1.jpg"},
            r"captions \(.*caption, .*file_name$",
        ),
        ({"caption": "x"}, r"images \(.*uri, .* caption$"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_for_a_missing_column_lists_the_existing_ones(
    tmp_path: Path, kind: str, content: dict[str, Any], words: str
) -> None:
    write(tmp_path, {f"list.{kind}": KINDS[kind]([content])})
    with pytest.raises(DatasetError, match=words) as caught:
        read(tmp_path / f"list.{kind}")
    assert caught.value.uri == str(tmp_path / f"list.{kind}")


def test_embedded_images_in_a_table_are_read_at_their_rows(tmp_path: Path) -> None:
    images = [{"bytes": b"x", "path": "1.jpg"}, {"bytes": b"y", "path": None}]
    structs = pa.table({"image": images, "caption": ["one", "two"]})
    binary = pa.table({"image": [b"x", b"y"], "text": ["three", "four"]})
    parts = {"train-0.parquet": parquet(structs), "test-0.parquet": parquet(binary)}
    write(tmp_path, {f"data/{name}": data for name, data in parts.items()})
    found = read(tmp_path)
    assert brief(found, "image_id", "uri", "offset_bytes", "split", "caption") == [
        ("data/test-0/00000000", f"{tmp_path}/data/test-0.parquet", 0, "test", "three"),
        ("data/test-0/00000001", f"{tmp_path}/data/test-0.parquet", 1, "test", "four"),
        ("data/train-0/00000000", f"{tmp_path}/data/train-0.parquet", 0, "train", "one"),
        ("data/train-0/00000001", f"{tmp_path}/data/train-0.parquet", 1, "train", "two"),
    ]
    folder = write(tmp_path / "photos", {"1.jpg": "x"})
    first, _ = read(tmp_path / "data" / "train-0.parquet", images=folder)
    assert (first["uri"], first["offset_bytes"]) == (f"{folder}/1.jpg", None)


def test_images_that_datasets_reads_from_addresses_are_read_from_there(tmp_path: Path) -> None:
    address = "https://host/1.jpg"
    images = [{"bytes": None, "path": address}, {"bytes": None, "path": None}, None]
    columns = {"image": images, "image_id": ["1.jpg", "2.jpg", "3.jpg"], "caption": ["x"] * 3}
    write(tmp_path, {"list.parquet": parquet(pa.table(columns))})
    found = read(tmp_path / "list.parquet")
    assert brief(found, "image_id", "uri") == [("1.jpg", address), ("2.jpg", None), ("3.jpg", None)]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", '{"file_name": "1.jpg", "caption": "x"}\n{"file_name"', "row 2"),
        ("b.jsonl", "[" * 100_000, "row 1"),
        ("c.json", '[{"file_name": "1.jpg", "caption": "x"}, ', "byte 42"),
        ("d.csv", "file_name,caption\n1.jpg," + "x" * 5_000_000, "row 1"),
        ("e.csv", 'file_name,caption\n1.jpg,x\n2.jpg,"y', "row 2"),
        ("f.tsv", 'file_name\tcaption\n1.jpg\t"y\n2.jpg\tz', "row 1"),
        ("g.parquet", "PAR1 and nothing else PAR1", "row 1"),
    ],
)
def test_the_error_for_a_damaged_table_states_the_position(
    tmp_path: Path, name: str, content: str, place: str
) -> None:
    write(tmp_path, {name: content})
    kind = name.rpartition(".")[2]
    what = "JSON" if kind == "json" else kind
    with pytest.raises(DatasetError, match=rf"{place}: .*{what}: ") as caught:
        read(tmp_path / name)
    assert caught.value.uri == str(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_empty_tables_are_tables_without_rows(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv"):
        write(tmp_path, {name: ""})
        assert read(tmp_path / name) == []


def test_tables_in_folders_of_splits_below_a_table_are_reported_as_not_read(tmp_path: Path) -> None:
    for folder in ("", "train/", "test/"):
        write(tmp_path, {f"{folder}metadata.jsonl": json_lines(ROWS)})
    found = open_annotations(str(tmp_path), CONFIG)
    assert pa.concat_tables(found.tables).num_rows == len(ROWS)
    (note,) = found.notes.texts()
    assert note.startswith("2 ")
    assert "/metadata.jsonl" in note
