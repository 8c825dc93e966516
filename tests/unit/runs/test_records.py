"""JSON records: read as the type they were written from, missing or damaged."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from raycap.config import StorageConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.runs.records import encode_json, read_as, read_if_any
from raycap.storage.base import Store
from raycap.storage.stores import open_store


@dataclass(frozen=True)
class Record:
    num_images: int


FORM = TypeAdapter(Record)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path), StorageConfig())


def test_a_record_is_read_as_its_type(store: Store) -> None:
    store.write("record.json", encode_json({"num_images": 3}))
    for read in (read_as, read_if_any):
        assert read(FORM, store, "record.json", "restore it") == Record(3)


def test_a_missing_record_is_an_error_or_none(store: Store) -> None:
    assert read_if_any(FORM, store, "record.json", "restore it") is None
    with pytest.raises(ObjectNotFound):
        read_as(FORM, store, "record.json", "restore it")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"num_images": "many"}'])
def test_a_damaged_record_is_an_error_for_both(store: Store, content: bytes) -> None:
    store.write("record.json", content)
    for read in (read_as, read_if_any):
        with pytest.raises(DatasetError, match=r"record\.json"):
            read(FORM, store, "record.json", "restore it")
