"""List files of all four kinds, and their errors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.captioning.list_file import read_list
from raycap.config import StorageConfig
from raycap.errors import DatasetError, ObjectNotFound

BOM = "\ufeff"
SUFFIXES = [".txt", ".csv", ".jsonl", ".parquet"]


def rows(path: Path) -> list[tuple[str, str]]:
    table = pa.concat_tables(read_list(str(path), StorageConfig()))
    assert table["size_bytes"].null_count == table["etag"].null_count == len(table)
    return list(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))


def write(path: Path, uris: list[str], **columns: list[Any]) -> Path:
    """Write a list file of the kind that its suffix says."""
    table = pa.table({"uri": uris, **columns})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif path.suffix == ".csv":
        lines = [",".join(f'"{value}"' for value in row.values()) for row in table.to_pylist()]
        path.write_text("\n".join([",".join(table.column_names), *lines]))
    else:
        path.write_text("\n".join(uris))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_addresses_name_the_images_and_relative_ones_start_at_the_list(
    tmp_path: Path, suffix: str
) -> None:
    uris = ["z.jpg", "sub/ü,1.jpg", "/abs/a.jpg", "s3://b/k.jpg", "https://me:pw@h/a?id=1&token=t"]
    assert rows(write(tmp_path / f"list{suffix}", uris)) == [
        ("z.jpg", f"{tmp_path}/z.jpg"),
        ("sub/ü,1.jpg", f"{tmp_path}/sub/ü,1.jpg"),
        ("/abs/a.jpg", "/abs/a.jpg"),
        ("s3://b/k.jpg", "s3://b/k.jpg"),
        ("https://h/a?id=1", "https://me:pw@h/a?id=1&token=t"),
    ]


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_column_image_id_names_the_images(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"list{suffix}",
        ["a", "b", "c", "d"],
        caption=["1", "2", "x", "y"],
        image_id=["000042", "", "NA", "null"],
    )
    assert [name for name, _ in rows(path)] == ["000042", "b", "NA", "null"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_numbers_may_name_images(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"list{suffix}", ["a", "b"], image_id=[42, None])
    assert [name for name, _ in rows(path)] == ["42", "b"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", f"{BOM}a.jpg\r\n\r\n  \nb.jpg \n\n"),
        ("l.csv", f"{BOM}uri,x\r\na.jpg,1\r\n\r\nb.jpg,long text\r\n"),
        ("l.csv", 'x,uri\n"two\nlines",a.jpg\n3,b.jpg'),
        ("l.jsonl", f'{BOM}{{"uri": "a.jpg"}}\r\n\n  \n{{"uri": "b.jpg", "x": [1]}}'),
    ],
)
def test_blank_lines_marks_and_other_columns_do_not_matter(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert [name for name, _ in rows(path)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("name", ["l.txt", "l.jsonl", "l.parquet", "l.csv"])
def test_an_empty_list_has_no_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [])
    if name == "l.parquet":
        pq.write_table(pa.table({"uri": pa.array([], pa.string())}), path)
    assert list(read_list(str(path), StorageConfig())) == []


def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", [f"{n}.jpg" for n in range(70_000)])
    assert [len(t) for t in read_list(str(path), StorageConfig())] == [65_536, 4_464]


WRONG: list[tuple[str, bytes, str]] = [
    ("l.csv", b"url,x\na,b\n", "has no column 'uri'"),
    ("l.csv", b"", "has no column 'uri'"),
    ("l.csv", b"uri,x\na,1\n,2\n", "row 2 has no address in 'uri'"),
    ("l.csv", b"uri,x\na,b,c\n", "3 fields instead of 2, the first: a"),
    ("l.csv", b'uri\n"a', "at row 1: cannot be read as csv"),
    ("l.csv", b"uri\n\xff\n", "at row 1: cannot be read as csv"),
    ("l.txt", b"a\n\xff\n", "at row 1: cannot be read as txt"),
    ("l.jsonl", b'{"uri": "a"}\n{"url": "b"}\n', "row 2 has no address in 'uri'"),
    ("l.jsonl", b'{"uri": ""}\n', "row 1 has no address in 'uri'"),
    ("l.jsonl", b'{"uri": 7}\n', "row 1 has no address in 'uri'"),
    ("l.jsonl", b'["a"]\n', "at row 1: cannot be read as jsonl"),
    ("l.jsonl", b"{\n", "cannot be read as jsonl"),
    ("l.jsonl", b'{"uri": "\\ud800"}\n', "row 1 has no address in 'uri'"),
    ("l.parquet", b"PAR1 no, not really", "cannot be read as parquet"),
    ("l.parquet", b"", "cannot be read as parquet"),
]


@pytest.mark.parametrize(("name", "content", "words"), WRONG)
def test_an_error_in_a_list_names_the_file_and_the_row_in_one_line(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        rows(path)
    assert caught.value.uri == str(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"url": ["a"]}, "has no column 'uri'"),
        ({"uri": ["a", None]}, "row 2 has no address"),
        ({"uri": [1]}, "row 1 has no address"),
        ({"uri": ["a"], "image_id": [[1]]}, "row 1 has an image_id"),
    ],
)
def test_an_error_in_parquet_names_the_row(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    with pytest.raises(DatasetError, match=words):
        rows(tmp_path / "l.parquet")


def test_columns_of_any_text_type_are_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "uri": pa.array(["a", "b"]).dictionary_encode(),
            "image_id": pa.array(["1", "2"], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "l.parquet")
    assert rows(tmp_path / "l.parquet") == [("1", f"{tmp_path}/a"), ("2", f"{tmp_path}/b")]


def test_a_list_that_does_not_exist_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match=r"none\.txt"):
        rows(tmp_path / "none.txt")
