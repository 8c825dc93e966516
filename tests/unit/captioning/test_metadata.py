"""Context beside the images: metadata files and sidecars join a listing in bounded memory."""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.captioning.context import Wanted
from raycap.captioning.metadata import (
    find_metadata,
    metadata_fields,
    sidecar_fields,
    with_metadata,
    with_sidecars,
    without,
)
from raycap.errors import ConfigError, DatasetError
from raycap.schema import MANIFEST
from raycap.storage.base import LISTING
from raycap.storage.local import LocalStore

WANTED = Wanted(names=("alt_text", "tags"), origin="metadata", max_chars=20)

KEYS = st.lists(
    st.text("ab.-", min_size=1, max_size=3).flatmap(
        lambda stem: st.sampled_from([".jpg", ".png", ".json", ".txt", ".jpg.json", ""]).map(
            lambda suffix: stem + suffix
        )
    ),
    unique=True,
    max_size=30,
)


def listing(keys: list[str], page: int) -> Iterator[pa.Table]:
    rows = [{"key": key, "size_bytes": 1, "etag": f"e-{key}"} for key in sorted(keys)]
    for start in range(0, len(rows), page):
        yield pa.Table.from_pylist(rows[start : start + page], schema=LISTING)


def is_sidecar(key: str) -> bool:
    return key.endswith((".json", ".txt")) and not key.startswith(".")


@settings(deadline=None, max_examples=300)
@given(KEYS, st.integers(1, 7))
def test_files_get_their_sidecars_and_other_sidecars_are_skipped(
    keys: list[str], page: int
) -> None:
    skipped: Counter[str] = Counter()
    tables = list(with_sidecars(listing(keys, page), skipped))
    found = {row["key"]: row for table in tables for row in table.to_pylist()}
    sidecars = {key for key in keys if is_sidecar(key)}
    expected = {}
    for key in sorted(set(keys) - sidecars):
        stem = posixpath.splitext(key)[0]
        names = [
            next((name for name in (key + suffix, stem + suffix) if name in sidecars), None)
            for suffix in (".json", ".txt")
        ]
        expected[key] = {name: f"e-{name}" for name in names if name}
    assert list(found) == list(expected)
    contexts = {key: json.loads(row["context"])["*"] for key, row in found.items()}
    assert contexts == expected
    used = {name for names in expected.values() for name in names}
    assert skipped.total() == len(sidecars - used)


def test_a_sidecar_is_named_without_its_folder() -> None:
    (table,) = with_sidecars(listing(["x/a.jpg", "x/a.json"], 9), Counter())
    assert json.loads(table["context"][0].as_py()) == {"*": {"a.json": "e-x/a.json"}}


def write_metadata(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> None:
    path = folder / f"metadata{suffix}"
    table = pa.Table.from_pylist(rows)
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(f'"{value or ""}"' for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(table.column_names), *lines]))


def images(*names: str) -> Iterator[pa.Table]:
    rows = [{"image_id": name, "uri": f"u/{name}", "etag": "e"} for name in sorted(names)]
    for row in rows:
        yield pa.Table.from_pylist([row], schema=MANIFEST)


def joined(folder: Path, *names: str, wanted: Wanted = WANTED) -> dict[str, Any]:
    file = find_metadata(LocalStore(folder))
    assert file is not None
    table = pa.concat_tables(with_metadata(images(*names), file, wanted))
    assert table.schema.equals(MANIFEST)
    contexts = table["context"].to_pylist()
    found = (None if context is None else json.loads(context) for context in contexts)
    return dict(zip(table["image_id"].to_pylist(), found, strict=True))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_images_get_the_named_columns_of_their_metadata(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "z.jpg", "tags": "last", "alt_text": None, "secret": "x"},
        {"file_name": "./b/ü.jpg", "tags": "a\n b" + "c" * 30, "alt_text": "an owl", "secret": "x"},
        {"file_name": "none.jpg", "tags": "x", "alt_text": None, "secret": "x"},
    ]
    write_metadata(tmp_path, suffix, rows)
    assert joined(tmp_path, "z.jpg", "a.jpg", "b/ü.jpg") == {
        "a.jpg": {"alt_text": None, "tags": None},
        "b/ü.jpg": {"alt_text": "an owl", "tags": "a b" + "c" * 17},
        "z.jpg": {"alt_text": None, "tags": "last"},
    }


@settings(deadline=None, max_examples=60)
@given(
    st.sets(st.text("abé/", min_size=1, max_size=3)),
    st.dictionaries(st.text("abé", min_size=1, max_size=3), st.integers(0, 9)),
)
def test_any_metadata_joins_as_a_dictionary_does(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], known: dict[str, int]
) -> None:
    folder = tmp_path_factory.mktemp("m")
    rows: list[dict[str, Any]] = [{"file_name": name, "tags": n} for name, n in known.items()]
    write_metadata(folder, ".jsonl", rows)
    if not names & known.keys():
        return
    expected = {
        name: {"tags": str(known[name]) if name in known else None, "alt_text": None}
        for name in sorted(names, key=str.encode)
    }
    assert joined(folder, *names) == expected


def test_metadata_of_no_image_or_of_one_twice_is_refused(tmp_path: Path) -> None:
    write_metadata(tmp_path, ".jsonl", [{"file_name": "x/a.jpg", "tags": "t"}])
    with pytest.raises(ConfigError) as unknown:
        joined(tmp_path, "a.jpg")
    assert unknown.value.uri == f"{tmp_path}/metadata.jsonl"
    write_metadata(tmp_path, ".jsonl", [{"file_name": "a.jpg", "tags": str(n)} for n in range(2)])
    with pytest.raises(DatasetError, match="line 1 and line 2"):
        joined(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg"}\n{broken\n')
    with pytest.raises(DatasetError, match="line 2"):
        joined(tmp_path, "a.jpg")


def test_columns_of_json_are_searched_until_all_are_found(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"file_name": f"{n}.jpg"} for n in range(2_000)]
    rows.append({"file_name": "x.jpg", "rare": 1})
    write_metadata(tmp_path, ".jsonl", rows)
    file = find_metadata(LocalStore(tmp_path))
    assert file is not None
    assert metadata_fields(file, ["rare"]) == ["file_name", "rare"]
    assert metadata_fields(file, []) == ["file_name"]
    (tmp_path / "metadata.jsonl").write_text('{"name": "a.jpg"}\n')
    with pytest.raises(ConfigError):
        metadata_fields(file, [])


def test_the_metadata_file_is_no_file_of_the_listing() -> None:
    tables = without(listing(["a.jpg", "metadata.csv"], 1), "metadata.csv")
    assert [table["key"].to_pylist() for table in tables] == [["a.jpg"]]
    assert find_metadata(LocalStore(Path("/nowhere"))) is None


def test_fields_of_sidecars_are_those_of_the_first_ones(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", '{"tags": ["x"], "alt_text": "y"}'),
        ("b.json", "broken"),
        ("b.txt", "a text"),
        (".c.json", '{"hidden": 1}'),
    ):
        (tmp_path / name).write_text(text)
    found = sidecar_fields(LocalStore(tmp_path), ["none"], 2)
    assert found == ["tags", "alt_text", "text"]
