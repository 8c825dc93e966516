"""Files of captions: every format gives the same rows; errors name the file and the row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.config import ExportFormat, StorageConfig
from raycap.errors import DatasetError, ObjectNotFound, StorageError
from raycap.evaluation import caption_file as captionfile
from raycap.evaluation.caption_file import FILE_NAMES, ROWS, read_captions, read_file_names
from raycap.exporting.export import export
from tests.conftest import S3
from tests.support import outputs
from tests.support.annotated import BOM

output = outputs.output  # a fixture, which pytest looks for under its name

ODD = 'a "quoted",\ncat;\r\nünïcode \u2028 \U0001f408 \u05d7\u05ea\u05d5\u05dc \0 and\ttabs'
Rows = list[dict[str, Any]]


def read(path: Path | str) -> Rows:
    tables = list(read_captions(str(path), StorageConfig(num_retries=0)))
    assert all(table.schema.equals(ROWS) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def brief(path: Path | str) -> list[tuple[str, str | None]]:
    return [(row[schema.IMAGE_ID], row[schema.CAPTION]) for row in read(path)]


def json_lines(path: Path, rows: Rows) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def coco_results(path: Path, rows: Rows) -> Path:
    path.write_text(json.dumps(rows))
    return path


def whole_coco(path: Path, rows: Rows) -> Path:
    path.write_text(json.dumps({"info": {}, "images": [], "annotations": rows}, indent=1))
    return path


def parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


Write = Callable[[Path, Rows], Path]
WRITERS: dict[str, Write] = {
    "captions.jsonl": json_lines,
    "results.json": coco_results,
    "captions.json": whole_coco,
    "captions.parquet": parquet,
}
every_format = pytest.mark.parametrize(
    ("name", "write"), WRITERS.items(), ids=["JSON Lines", "COCO results", "COCO", "Parquet"]
)


@every_format
def test_every_format_gives_the_same_rows(name: str, write: Write, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image_id": "a/1.jpg", "caption": "a cat", "logprob": -0.5, "uri": "s3://b/a/1.jpg"},
        {"image_id": "2.jpg", "caption": ODD, "logprob": None, "uri": None},
        {"image_id": "3.jpg", "caption": "", "logprob": None, "uri": "pictures/3.jpg"},
        {"image_id": "4.jpg", "caption": None, "logprob": None, "uri": "/abs/4.jpg"},
    ]
    failed = {"status": "failed", "error_code": None, "caption": None, "logprob": None}
    assert read(write(tmp_path / name, rows)) == [
        {
            **dict.fromkeys(ROWS.names),
            "status": "ok",
            "file": file,
            **{key: row[key] for key in ("image_id", "caption", "logprob")},
            "uri": uri,
            **more,
        }
        for row, file, uri, more in zip(
            rows,
            ["s3://b/a/1.jpg", "2.jpg", "pictures/3.jpg", "/abs/4.jpg"],
            ["s3://b/a/1.jpg", None, None, "/abs/4.jpg"],
            [{}, {}, {}, failed],
            strict=True,
        )
    ]


def test_csv_is_all_text_and_keeps_the_zeros_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(
        "image_id,caption,logprob,status,error_code\r\n"
        '000042,"a ""cat"", and\n a dog",-0.25,ok,\r\n'
        "\r\n"
        "43,,,ok,\r\n"
        "44,,,failed,too_large\r\n",
        newline="",
    )
    found = read(path)
    assert [(row["image_id"], row["status"], row["caption"]) for row in found] == [
        ("000042", "ok", 'a "cat", and\n a dog'),
        ("43", "ok", ""),
        ("44", "failed", None),
    ]
    assert [row["logprob"] for row in found] == [-0.25, None, None]
    assert [row["error_code"] for row in found] == [None, None, "too_large"]


@pytest.mark.parametrize("name", ["=1.jpg", "+1.jpg", "-1.jpg", "@1.jpg", "\t1.jpg", "\r1.jpg"])
def test_an_exported_csv_names_the_images_of_its_output(
    name: str, output: Callable[..., str], tmp_path: Path
) -> None:
    rows = [outputs.row(name, caption) for caption in ("=1+1 cats", "'tis a cat", "'")]
    rows = [{**item, schema.IMAGE_ID: f"{name}{n}"} for n, item in enumerate(rows)]
    written = tmp_path / "captions.csv"
    export(output(rows), written, to=ExportFormat.CSV)
    assert brief(written) == [(item[schema.IMAGE_ID], item[schema.CAPTION]) for item in rows]


def test_an_apostrophe_is_kept_where_no_spreadsheet_would_run_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image_id,caption\n'a.jpg,'\n''=b.jpg,'quoted'\n")
    assert brief(tmp_path / "a.csv") == [("'a.jpg", "'"), ("'=b.jpg", "'quoted'")]
    (tmp_path / "a.jsonl").write_text('{"image_id": "\'=c.jpg", "caption": "\'=c"}\n')
    assert brief(tmp_path / "a.jsonl") == [("'=c.jpg", "'=c")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", f'{BOM}{{"image_id": 1, "caption": "a"}}\n'),
        ("a.json", f'{BOM}[{{"image_id": 1, "caption": "a"}}]'),
        ("a.json", f'{BOM}{{"annotations": [{{"image_id": 1, "caption": "a"}}]}}'),
        ("a.csv", f"{BOM}image_id,caption\n1,a\n"),
        ("a.JSONL", '\n \n{"image_id": 1, "caption": "a"}'),
        ("a.json", '\n  [ {"image_id": 1, "caption": "a"}]'),
    ],
)
def test_byte_order_marks_and_blank_space_change_nothing(
    name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert brief(tmp_path / name) == [("1", "a")]


def test_an_image_is_named_by_its_id_its_file_or_its_address(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image_id": 7, "file_name": "f/7.jpg", "uri": "s3://b/7.png"},
        {"file_name": "8.jpg"},
        {"uri": "https://user:secret@host/p/9%20a.jpg?sig=t&se=1&size=2"},
        {"uri": "https://[::1/p/11.jpg"},
        {"image_id": "", "file_name": None, "uri": "/data/10.jpg"},
        {"image_id": 0},
    ]
    path = json_lines(tmp_path / "a.jsonl", [{**row, "caption": "a"} for row in rows])
    assert [(row["image_id"], row["file"], row["uri"]) for row in read(path)] == [
        ("7", "f/7.jpg", "s3://b/7.png"),
        ("8.jpg", "8.jpg", None),
        ("https://host/p/9%20a.jpg?size=2", "/p/9 a.jpg", rows[2]["uri"]),
        ("https://[::1/p/11.jpg", "/p/11.jpg", rows[3]["uri"]),
        ("/data/10.jpg", "/data/10.jpg", "/data/10.jpg"),
        ("0", "0", None),
    ]


def test_a_failed_row_has_neither_caption_nor_logprob(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "status": "failed", "caption": "half a", "logprob": -1, "error_code": 5},
        {"image_id": 2, "status": "failed"},
        {"image_id": 3, "caption": "a", "error_code": "left over"},
    ]
    found = read(json_lines(tmp_path / "a.jsonl", rows))
    assert [(row["status"], row["error_code"]) for row in found] == [
        ("failed", "5"),
        ("failed", None),
        ("ok", None),
    ]
    assert [row["caption"] for row in found] == [None, None, "a"]
    assert [row["logprob"] for row in found] == [None] * 3


def test_a_logprob_that_is_no_number_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(
            f'{{"image_id": {at}, "caption": "a", "logprob": {value}}}\n'
            for at, value in enumerate(["NaN", "-Infinity", '"-0.5"'])
        )
    )
    assert [row["logprob"] for row in read(tmp_path / "a.jsonl")] == [None, None, -0.5]


def test_half_of_a_surrogate_pair_does_not_end_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"image_id": 1, "caption": "a \\ud83d dog"}\n')
    assert brief(tmp_path / "a.jsonl") == [("1", "a ? dog")]


def test_ids_of_parquet_may_be_numbers(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"image_id": 42, "caption": "a", "more": [1]}])
    assert brief(path) == [("42", "a")]


def test_files_larger_than_a_page_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captionfile, "_PAGE_ROWS", 3)
    rows = [{"image_id": number, "caption": f"{number}"} for number in range(7)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    assert [len(table) for table in read_captions(str(path), StorageConfig())] == [3, 3, 1]
    assert brief(path) == [(str(number), str(number)) for number in range(7)]
    json_lines(path, [*rows, {"image_id": 1}])
    with pytest.raises(DatasetError, match=r"row 8 .*'caption'"):
        read(path)


def test_whole_coco_files_have_file_names_of_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    images: list[Any] = [
        {"id": 42, "file_name": "42.jpg", "height": 1.5},
        {"id": 7, "file_name": ""},
        {"id": 8},
        {"file_name": "9.jpg"},
    ]
    path.write_text(json.dumps({"annotations": [], "images": images}))
    (table,) = read_file_names(str(path), StorageConfig())
    assert table.schema.equals(FILE_NAMES)
    assert table.to_pylist() == [{"image_id": "42", "file_name": "42.jpg"}]
    coco_results(path, [{"image_id": 1, "caption": "a"}])
    assert list(read_file_names(str(path), StorageConfig())) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", '{"image_id": 1, "caption": "a"}\n{"image_id": 2}', "row 2 .*'caption'"),
        ("a.jsonl", '{"caption": "a"}', "row 1 .*image_id"),
        ("a.jsonl", '{"image_id": 1.5, "caption": "a"}', "row 1 .*: 1.5"),
        ("a.jsonl", '{"image_id": true, "caption": "a"}', "row 1 .*: True"),
        ("a.jsonl", '{"image_id": 1, "caption": 3}', "row 1 .*: 3"),
        ("a.jsonl", '{"image_id": 1, "caption": "a", "logprob": "x"}', "row 1 .*logprob 'x'"),
        (
            "a.jsonl",
            '{"image_id": 1, "capt',
            "row 1: .*jsonl",
        ),
        ("a.jsonl", "[1, 2]", "row 1: .*jsonl"),
        (
            "a.json",
            '[{"image_id": 1, "caption": "a"}',
            "byte 3[0-9]: ",
        ),
        ("a.json", "[3]", "row 1: .*json"),
        ("a.json", '{"image_id": 1}{"image_id": 2}', "byte .*: .*JSON"),
        ("a.csv", "image_id,caption\n1,a,b\n", r"\b3 .*\b2\b.*: 1$"),
        ("a.csv", "image_id\n1\n", "row 1 .*'caption'"),
        ("a.csv", 'image_id,caption\n1,"a', "row 1: .*csv"),
        ("a.parquet", "PAR1 no, it is not", "row 1: .*parquet"),
        ("a.parquet", "", "row 1: .*parquet"),
    ],
)
def test_an_error_in_a_file_names_the_file_and_the_row_in_one_line(
    name: str, text: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=told) as error:
        read(tmp_path / name)
    assert error.value.uri == str(tmp_path / name)
    assert "\n" not in str(error.value)


def test_text_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"image_id,caption\n1,caf\xe9\n")
    with pytest.raises(DatasetError, match=r"row 1: .*UTF-8") as caught:
        read(tmp_path / "a.csv")
    assert caught.value.uri == str(tmp_path / "a.csv")


def test_a_file_that_does_not_exist_or_is_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound) as caught:
        read(tmp_path / "gone.json")
    assert caught.value.uri == str(tmp_path / "gone.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(StorageError, match=r"folder\.json"):
        read(tmp_path / "folder.json")


@every_format
def test_files_are_read_from_buckets(name: str, write: Write, tmp_path: Path, s3: S3) -> None:
    data = write(tmp_path / name, [{"image_id": "1.jpg", "caption": ODD}]).read_bytes()
    s3.put(f"some where/{name}", data)
    assert brief(f"{s3.uri}/some where/{name}") == [("1.jpg", ODD)]
    with pytest.raises(ObjectNotFound) as caught:
        brief(f"{s3.uri}/no/{name}")
    assert caught.value.uri == f"{s3.uri}/no/{name}"


def test_addresses_of_files_are_taken(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [{"image_id": 1, "caption": "a"}])
    assert brief(f"file://{path}") == [("1", "a")]


@pytest.mark.parametrize("damage", [b"[" * 200_000, b'[{"image_id": ' + b"9" * 5_000 + b"}]"])
def test_json_that_breaks_the_parser_is_refused(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(damage)
    with pytest.raises(DatasetError, match="JSON") as caught:
        read(path)
    assert caught.value.uri == str(path)
