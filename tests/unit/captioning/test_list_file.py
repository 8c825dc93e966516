"""List files of all four kinds, and their errors."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.captioning.list_file import read_list
from raycap.config import StorageConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.storage.address import Address, redact

BOM = "\ufeff"
SUFFIXES = [".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet"]


def rows(path: Path) -> list[tuple[str, str]]:
    table = pa.concat_tables(read_list(str(path), StorageConfig()))
    assert table["size_bytes"].null_count == table["etag"].null_count == len(table)
    return list(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))


def write(path: Path, uris: list[str], **columns: list[Any]) -> Path:
    """Write a list file of the kind that its suffix says."""
    table = pa.table({"uri": uris, **columns})
    mark = "\t" if path.suffix == ".tsv" else ","
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(table.to_pylist()))
    elif path.suffix in (".csv", ".tsv"):
        lines = [mark.join(f'"{value}"' for value in row.values()) for row in table.to_pylist()]
        path.write_text("\n".join([mark.join(table.column_names), *lines]))
    else:
        path.write_text("\n".join(uris))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_addresses_name_the_images_and_relative_ones_start_at_the_list(
    tmp_path: Path, suffix: str
) -> None:
    uris = [
        "z.jpg",
        "sub/ü,1.jpg",
        "/abs/a.jpg",
        "s3://b/k.jpg",
        "https://me:pw@h/a?id=1&sig=t&se=1",
    ]
    assert rows(write(tmp_path / f"list{suffix}", uris)) == [
        ("z.jpg", f"{tmp_path}/z.jpg"),
        ("sub/ü,1.jpg", f"{tmp_path}/sub/ü,1.jpg"),
        ("/abs/a.jpg", "/abs/a.jpg"),
        ("s3://b/k.jpg", "s3://b/k.jpg"),
        ("https://h/a?id=1", "https://me:pw@h/a?id=1&sig=t&se=1"),
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
    ("l.csv", b"url,x\na,b\n", "'uri'"),
    ("l.csv", b"", "'uri'"),
    ("l.csv", b"uri,x\n,2\n", r"line 2: .*'uri'"),
    ("l.csv", b"uri,x\na,b,c\n", r"line 2: 3 .*\b2\b.*: a$"),
    ("l.csv", b'uri\n"a', r"row 1: .*csv"),
    ("l.csv", b"uri\n\xff\n", r"line 2: .*UTF-8"),
    ("l.txt", "a.jpg\nb.jpg".encode("utf-16-le"), "UTF-16"),
    ("l.txt", b"\n\xff\n", r"line 2: .*UTF-8"),
    ("l.txt", b"gopher://h/a\n", r"line 1: gopher://"),
    ("l.jsonl", b'\n{"url": "b"}\n', r"line 2: .*'uri'"),
    ("l.jsonl", b'{"uri": 7}\n', r"line 1: .*'uri'"),
    ("l.jsonl", b"[1]\n", r"line 1: .*object"),
    ("l.jsonl", b'{"uri": "a\n', r"line 1: .*JSON: Invalid control character at"),
    ("l.jsonl", b'{"uri": ' + b"[" * 100_000, r"line 1: .*JSON: "),
    ("l.jsonl", b'{"uri": "\\ud800"}\n', r"line 1: .*UTF-8"),
    ("l.json", b'["a.jpg", ', "JSON"),
    (
        "l.csv.gz",
        gzip.compress(b"uri\n" + bytes(range(256)) * 99)[:-20],
        r"unpacked .*Compressed file",
    ),
    ("l.parquet", b"PAR1 no, not really", r"row 1: .*parquet: "),
    ("l.parquet", b"", r"row 1: .*parquet: "),
]


@pytest.mark.parametrize(("name", "content", "fact"), WRONG)
def test_an_error_in_a_list_names_the_file_and_the_row_in_one_line(
    tmp_path: Path, name: str, content: bytes, fact: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=fact) as caught:
        rows(path)
    assert caught.value.uri == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"url": ["a"]}, "'uri'"),
        ({"uri": pa.array([None], pa.string())}, "row 1: .*'uri'"),
        ({"uri": [1]}, "row 1: .*'uri'"),
        ({"uri": ["a"], "image_id": [[1]]}, "row 1: .*image_id"),
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


def faults(path: Path) -> dict[str, str | None]:
    """Give why each image cannot be read, by its id."""
    return {name: Address.parse(uri).fault for name, uri in rows(path)}


BAD_ROWS: list[tuple[str, bytes, str, str]] = [
    ("l.txt", b"a.jpg\nftp://me:hunter2@h/b.jpg\n", "ftp://h/b.jpg", "line 2"),
    ("l.txt", b"a.jpg\n\ngopher://h/b\n", "gopher://h/b", "line 3"),
    ("l.txt", b"a.jpg\ns3://AKIA:hunter2@b/k\n", "s3://b/k", "line 2"),
    ("l.txt", b"a.jpg\n\xe9.jpg\n", "(line 2 of l.txt)", "not UTF-8"),
    ("l.csv", b'x,uri\n"two\nlines",a\n3,\n', "(line 4 of l.csv)", "line 4"),
    ("l.csv", b"uri,x\na,1\nb,2,3\n", "(line 3 of l.csv)", "line 3"),
    ("l.csv", b"uri,x\na,1\nb\n", "(line 3 of l.csv)", "line 3"),
    ("l.csv", b"uri,image_id\na,1\nnone://h,2\n", "2", "line 3"),
    ("l.jsonl", b'{"uri": "a"}\n{"uri": null}\n', "(line 2 of l.jsonl)", "line 2"),
    ("l.jsonl", b'{"uri": "a"}\n[]\n', "(line 2 of l.jsonl)", "line 2"),
    ("l.jsonl", b'{"uri": "a"}\n{"uri": "b', "(line 2 of l.jsonl)", "line 2"),
    ("l.jsonl", b'{"uri": "a"}\n{"uri": "b", "image_id": {}}\n', "b", "line 2"),
    ("l.json", b'[{"uri": "a"}, {"uri": null}]', "(row 2 of l.json)", "row 2"),
    ("l.json", b'["a", 7]', "(row 2 of l.json)", "row 2"),
]


@pytest.mark.parametrize(("name", "content", "image_id", "words"), BAD_ROWS)
def test_a_row_that_names_no_image_is_an_image_that_fails_with_its_place(
    tmp_path: Path, name: str, content: bytes, image_id: str, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = faults(path)
    assert len(found) == 2
    assert None in found.values()
    assert words in (found[image_id] or "")
    assert not any("hunter2" in text for row in rows(path) for text in (row[0], redact(row[1])))


TWO = "a.jpg\nü.jpg\n"
CSV = f'x,uri\n"{"long " * 50_000}",a.jpg\n2,ü.jpg\n'
JSONL = '{"uri": "a.jpg", "score": NaN}\n{"uri": "ü.jpg"}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.txt", TWO.encode("utf-16")),
        ("l.txt", f"{BOM}{TWO}".encode("utf-16-be")),
        ("l.txt", f"{BOM}{TWO}".encode("utf-32-le")),
        ("l.txt", gzip.compress(TWO.encode())),
        ("l.txt", b"uri\ta\na.jpg\t1\n" + "ü.jpg\t2".encode()),
        ("l.txt", JSONL.encode()),
        ("l.csv", CSV.encode()),
        ("l.csv", CSV.encode("utf-16")),
        ("l.csv", CSV.replace(",", ";").encode()),
        ("l.csv", CSV.replace(",", "\t").encode()),
        ("l.csv", JSONL.encode()),
        ("l.csv.gz", gzip.compress(CSV.encode())),
        ("l.tsv", CSV.replace(",", "\t").encode()),
        ("l.jsonl", JSONL.encode("utf-16")),
        ("l.jsonl.gz", gzip.compress(JSONL.encode())),
        ("l.json", JSONL.encode()),
        ("l.json", '[{"uri": "a.jpg", "s": [NaN, -Infinity]}, {"uri": "ü.jpg"}]'.encode("utf-16")),
        ("l.json", '\n ["a.jpg", "ü.jpg"]'.encode()),
        ("l.json.gz", gzip.compress('["a.jpg", "ü.jpg"]'.encode())),
    ],
)
def test_a_list_is_read_by_its_content_encoding_and_compression(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert rows(path) == [(name, f"{tmp_path}/{name}") for name in ("a.jpg", "ü.jpg")]


def test_parquet_is_recognised_by_its_content(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.jpg"]}), tmp_path / "l.csv")
    assert rows(tmp_path / "l.csv") == [("a.jpg", f"{tmp_path}/a.jpg")]


def test_a_file_may_be_listed_by_the_bytes_of_its_name(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.jpg")).write_bytes(b"x")
    (tmp_path / "l.txt").write_bytes(b"a\xff.jpg\n")
    assert rows(tmp_path / "l.txt") == [("a%FF.jpg", f"{tmp_path}/a%FF.jpg")]


def test_an_id_that_is_an_address_has_no_secret_and_keeps_its_fragment(tmp_path: Path) -> None:
    ids = ["https://h/a?sig=hunter2&se=1#1", "https://h/a?sig=hunter2&se=1#2"]
    path = write(tmp_path / "l.jsonl", ["a", "b"], image_id=ids)
    assert [name for name, _ in rows(path)] == ["https://h/a#1", "https://h/a#2"]
