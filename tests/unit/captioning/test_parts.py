"""Part files: contents of footers, and detection of damage."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    ids_digest,
    manifest_footer,
    read_captions_footer,
    read_manifest_footer,
    read_part,
)
from raycap.errors import DatasetError, ObjectNotFound
from raycap.schema import CAPTIONS as CAPTIONS_SCHEMA
from raycap.schema import IMAGE_ID
from raycap.schema import MANIFEST as MANIFEST_SCHEMA
from raycap.storage.local import LocalStore
from raycap.storage.parts import list_parts, part_key


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def manifest(num_rows: int, id_chars: int = 8) -> pa.Table:
    rows = range(num_rows)
    columns: dict[str, list[object]] = {
        "image_id": [f"{row:0{id_chars}d}é" for row in rows],
        "uri": [f"s3://bucket/{row}" for row in rows],
        "size_bytes": [None if row % 3 == 0 else row for row in rows],
        "etag": [f"etag-{row}" for row in rows],
        "context": [None if row % 2 else f"context-{row}" for row in rows],
    }
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def captions(num_rows: int) -> pa.Table:
    codes = [None, "timeout", None, "decode_failed"]
    return pa.Table.from_pylist(
        [
            {
                "image_id": f"{row:08d}",
                "uri": "u",
                "status": "failed" if codes[row % 4] else "ok",
                "error_code": codes[row % 4],
                "attempts": 1,
                "caption": None if codes[row % 4] else f"caption {row}",
                "num_words": None if codes[row % 4] else 2,
                "alternatives": [{"caption": "other", "logprob": -0.5}],
            }
            for row in range(num_rows)
        ],
        schema=CAPTIONS_SCHEMA,
    )


def write_manifest(store: LocalStore, number: int, table: pa.Table, revision: int = 0) -> None:
    footer = manifest_footer(table, revision)
    store.write(part_key(MANIFEST, number), encode_manifest(table, footer))


def test_a_manifest_part_is_read_as_it_was_written(store: LocalStore) -> None:
    table = manifest(100)
    write_manifest(store, 7, table, revision=3)
    assert read_part(store, MANIFEST, 7).equals(table)
    assert read_part(store, MANIFEST, 7, ["etag", "image_id"]).column_names == ["etag", "image_id"]
    footer = read_manifest_footer(store, 7)
    assert footer == manifest_footer(table, 3)
    assert (footer.first, footer.last) == ("00000000é", "00000099é")
    assert (footer.num_rows, footer.revision) == (100, 3)
    assert footer.num_bytes == sum(row for row in range(100) if row % 3)


def test_a_captions_part_is_read_as_it_was_written(store: LocalStore) -> None:
    table = captions(10)
    data, footer = encode_captions(table, num_bytes=123, revision=2)
    store.write(part_key(CAPTIONS, 0), data)
    assert read_part(store, CAPTIONS, 0).equals(table)
    assert read_captions_footer(store, 0) == footer
    assert footer.failed == {"decode_failed": 2, "timeout": 3}
    assert (footer.num_transient, footer.num_words, footer.num_bytes) == (3, 10, 123)


def test_the_same_rows_are_the_same_bytes() -> None:
    table = captions(50)
    again = pa.concat_tables([table.slice(0, 20), table.slice(20)])
    assert encode_captions(table, 1, 0)[0] == encode_captions(again, 1, 0)[0]


def test_a_footer_longer_than_the_tail_is_read(store: LocalStore) -> None:
    table = manifest(3, id_chars=60_000)
    write_manifest(store, 0, table)
    data = store.read(part_key(MANIFEST, 0))
    assert int.from_bytes(data[-8:-4], "little") > 65_536
    assert read_manifest_footer(store, 0) == manifest_footer(table)


def test_only_whole_parts_of_the_folder_are_listed(store: LocalStore) -> None:
    for name in ("part-000003.parquet", "part-1234567.parquet", "part-12.parquet", "x.parquet",
                 ".part-000004.parquet.ab.raycap-tmp", "sub/part-000005.parquet"):  # fmt: skip
        store.write(CAPTIONS + name, b"")
    assert sorted(list_parts(store, CAPTIONS)) == [3, 1234567]
    assert list(list_parts(store, MANIFEST)) == []
    assert part_key(CAPTIONS, 1234567) == "captions/part-1234567.parquet"


def attempts(store: LocalStore) -> list[Callable[[], object]]:
    return [lambda: read_manifest_footer(store, 0), lambda: read_part(store, MANIFEST, 0)]


@pytest.mark.parametrize("tenth", range(10))
def test_a_part_cut_short_is_told_by_name(store: LocalStore, tenth: int) -> None:
    write_manifest(store, 0, manifest(500))
    data = store.read(part_key(MANIFEST, 0))
    store.write(part_key(MANIFEST, 0), data[: len(data) * tenth // 10])
    for attempt in attempts(store):
        with pytest.raises(DatasetError) as caught:
            attempt()
        assert caught.value.uri == store.address(part_key(MANIFEST, 0))
    store.write(part_key(CAPTIONS, 0), data[:tenth])
    with pytest.raises(DatasetError, match="raycap caption") as caught:
        read_captions_footer(store, 0)
    assert caught.value.uri == store.address(part_key(CAPTIONS, 0))


def test_a_part_with_wrong_bytes_anywhere_is_never_read_as_other_rows(store: LocalStore) -> None:
    table = captions(500)
    data, _ = encode_captions(table, 1, 0)
    noticed = 0
    for start in range(0, len(data) - 8, len(data) // 97):
        damaged = data[:start] + bytes(byte ^ 0xA5 for byte in data[start : start + 8])
        store.write(part_key(CAPTIONS, 0), damaged + data[start + 8 :])
        try:
            assert read_part(store, CAPTIONS, 0).equals(table)
        except DatasetError:
            noticed += 1
    assert noticed > 50


def test_a_file_of_another_tool_is_told_by_name(store: LocalStore) -> None:
    key = part_key(MANIFEST, 0)
    Path(store.address("manifest")).mkdir()
    wrong = [pa.table({"image_id": ["a"]}), pa.table({"x": [1]})]
    for table in wrong:
        for metadata in (None, {b"raycap": b"{}"}, {b"raycap": b"[1]"}, {b"raycap": b"no"}):
            pq.write_table(table.replace_schema_metadata(metadata), store.address(key))
            for attempt in attempts(store):
                with pytest.raises(DatasetError) as caught:
                    attempt()
                assert caught.value.uri == store.address(key)
    with pytest.raises(ObjectNotFound):
        read_part(store, MANIFEST, 1)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(0, 9))
def test_the_digest_of_ids_does_not_depend_on_how_a_table_is_cut(ids: list[str], at: int) -> None:
    reference = blake2b(digest_size=16)
    for data in (image_id.encode() for image_id in ids):
        reference.update(len(data).to_bytes(8, "little") + data)
    table = pa.table({IMAGE_ID: pa.array(ids, pa.string())})
    cut = pa.concat_tables([table.slice(0, at), table.slice(at)])
    assert ids_digest(table) == ids_digest(cut) == reference.hexdigest()
