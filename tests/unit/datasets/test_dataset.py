"""Reading a caption dataset: pages, references, single images; and errors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.config import PrepareConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import DatasetError, ObjectNotFound
from raycap.results.dataset import is_dataset, read_record
from raycap.storage.stores import digest_of, open_store
from tests.support.caption_sets import folder_rows, make_dataset, picture

STORAGE = StorageConfig()
NUM_IMAGES = 50


def config(**sections: Any) -> PrepareConfig:
    sections.setdefault("engine", {"part_size": 16})
    sections.setdefault("split", {"validation": 0.25, "test": 0.25})
    return validate_config(PrepareConfig, sections)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(NUM_IMAGES):
        picture(folder / f"{number % 3}" / f"{number:03d}.jpg", seed=number)
    return folder


@pytest.fixture
def dataset(photos: Path, tmp_path: Path) -> CaptionDataset:
    make_dataset(tmp_path / "dataset", folder_rows(photos), config())
    return open_dataset(tmp_path / "dataset", STORAGE)


def ids_of(table: pa.Table) -> list[str]:
    ids: list[str] = table[schema.IMAGE_ID].to_pylist()
    return ids


def test_parts_of_a_split_have_its_rows_in_order_of_ids(
    dataset: CaptionDataset, photos: Path, tmp_path: Path
) -> None:
    assert dataset.splits == ["train", "validation", "test"]
    seen = []
    for split in dataset.splits:
        tables = [pq.read_table(tmp_path / "dataset" / key) for key in dataset.parts(split)]
        assert all(table.schema.equals(schema.DATASET) for table in tables)
        assert all(set(table[schema.SPLIT].to_pylist()) == {split} for table in tables)
        ids = [image_id for table in tables for image_id in ids_of(table)]
        assert ids == sorted(ids)
        assert len(ids) == dataset.record.splits[split].num_images
        seen += ids
    assert sorted(seen) == sorted({row[schema.IMAGE_ID] for row in folder_rows(photos)})


def test_pages_come_in_part_order_with_the_columns_asked_for(dataset: CaptionDataset) -> None:
    names = [schema.IMAGE_ID, schema.SPLIT]
    pages = list(dataset.pages(columns=names))
    assert {tuple(page.column_names) for page in pages} == {tuple(names)}
    last = ""
    for part in range(4):
        ids = [i for page in pages[part * 3 : part * 3 + 3] for i in ids_of(page)]
        assert min(ids) > last
        last = max(ids)
    some = list(dataset.pages(["test", "train"], [schema.SPLIT]))
    assert {name for page in some for name in page[schema.SPLIT].to_pylist()} == {"test", "train"}
    whole = pa.concat_tables(dataset.pages())
    assert whole.column_names == schema.DATASET.names
    assert len(whole) == NUM_IMAGES


def test_references_are_sorted_over_all_splits(dataset: CaptionDataset, photos: Path) -> None:
    table = pa.concat_tables(dataset.references())
    assert table.schema.equals(schema.REFERENCES)
    assert ids_of(table) == sorted({row[schema.IMAGE_ID] for row in folder_rows(photos)})
    said: dict[str, list[str]] = {}
    for row in folder_rows(photos):
        said.setdefault(row[schema.IMAGE_ID], []).append(row[schema.CAPTION])
    assert table[schema.CAPTIONS_LIST].to_pylist() == [said[i] for i in ids_of(table)]
    (split,) = {s for t in dataset.references(["test"]) for s in t[schema.SPLIT].to_pylist()}
    assert split == "test"


def test_images_are_found_by_their_ids(dataset: CaptionDataset, photos: Path) -> None:
    every = [row[schema.IMAGE_ID] for row in folder_rows(photos, 1)]
    found = dict(dataset.images([*every, "0/nothing.jpg", "9"]))
    assert found == {image_id: (photos / image_id).read_bytes() for image_id in every}
    assert dict(dataset.images(every[7:8] * 2)) == {every[7]: (photos / every[7]).read_bytes()}
    assert list(dataset.images([])) == []


def test_one_image_is_read_without_its_whole_part(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(12):
        picture(folder / f"{number:02d}.png", seed=number)
        with (folder / f"{number:02d}.png").open("ab") as file:
            file.write(b"\0" * 3_000_000)  # after the end of the image
    make_dataset(tmp_path / "out", folder_rows(folder), config(split={"validation": 0, "test": 0}))
    dataset = open_dataset(tmp_path / "out", STORAGE)
    (key,) = dataset.parts("train")
    groups = pq.read_metadata(tmp_path / "out" / key).num_row_groups
    assert groups == 4
    assert [len(page) for page in dataset.pages()] == [3] * 4
    assert [len(page) for page in dataset.pages(columns=[schema.IMAGE_ID])] == [12]
    # What is not wanted may even be gone: the last row group but the text is overwritten.
    part = tmp_path / "out" / key
    data = bytearray(part.read_bytes())
    start = data.rindex((folder / "11.png").read_bytes())
    data[start : start + 100] = b"x" * 100
    part.write_bytes(data)
    assert dict(dataset.images(["04.png"])) == {"04.png": (folder / "04.png").read_bytes()}
    assert len(next(dataset.references())) == 12
    with pytest.raises(DatasetError) as caught:
        list(dataset.images(["11.png"]))
    assert caught.value.uri == str(part)


def test_referenced_images_are_fetched_from_their_addresses(photos: Path, tmp_path: Path) -> None:
    settings = config(embed={"enabled": False, "max_side_px": 16})
    record = make_dataset(tmp_path / "out", folder_rows(photos), settings)
    dataset = open_dataset(tmp_path / "out", STORAGE)
    table = pa.concat_tables(dataset.pages())
    assert table[schema.BYTES].null_count == NUM_IMAGES
    assert record.width_px.max == 64
    found = dict(dataset.images(["0/000.jpg", "1/001.jpg"]))
    assert found["1/001.jpg"] == (photos / "1/001.jpg").read_bytes()
    assert dataset.digests(["1/001.jpg", "9"]) == {"1/001.jpg": digest_of(found["1/001.jpg"])}
    (photos / "1/001.jpg").write_bytes(found["0/000.jpg"])
    with pytest.raises(ObjectNotFound) as caught:
        list(dataset.images(["1/001.jpg"]))
    assert caught.value.uri == str(photos / "1/001.jpg")
    (photos / "1/001.jpg").unlink()
    with pytest.raises(ObjectNotFound) as caught:
        list(dataset.images(["1/001.jpg"]))
    assert caught.value.uri == str(photos / "1/001.jpg")


def test_the_error_for_an_unknown_split_lists_the_existing_ones(dataset: CaptionDataset) -> None:
    for read in (dataset.parts, lambda split: list(dataset.pages([split]))):
        with pytest.raises(DatasetError, match=r"'dev'.* train, validation, test") as caught:
            read("dev")
        assert caught.value.uri == dataset.store.uri


def test_a_missing_or_damaged_dataset_is_an_error(dataset: CaptionDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.json") as caught:
        open_dataset(tmp_path / "photos", STORAGE)
    assert caught.value.uri == str(tmp_path / "photos")
    assert not is_dataset(open_store(str(tmp_path / "photos"), STORAGE))
    assert not is_dataset(open_store(str(tmp_path / "photos/0/000.jpg"), STORAGE))
    assert is_dataset(dataset.store)
    record = tmp_path / "dataset" / "dataset.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "num_images": "many"}))
    with pytest.raises(DatasetError, match="num_images") as caught:
        open_dataset(tmp_path / "dataset", STORAGE)
    assert caught.value.uri == str(record)
    record.write_text("{")
    with pytest.raises(DatasetError, match="JSON") as caught:
        open_dataset(tmp_path / "dataset", STORAGE)
    assert caught.value.uri == str(record)


def test_the_record_is_read_as_it_was_written(dataset: CaptionDataset, tmp_path: Path) -> None:
    again = read_record(dataset.store)
    assert again == dataset.record
    assert again.splits["train"].lengths == dataset.record.splits["train"].lengths
    lengths = json.loads((tmp_path / "dataset/dataset.json").read_text())["splits"]["train"]
    assert lengths["lengths"] == {str(k): v for k, v in again.splits["train"].lengths.items()}


def test_a_damaged_part_is_an_error(dataset: CaptionDataset, tmp_path: Path) -> None:
    key = dataset.parts("train")[0]
    (tmp_path / "dataset" / key).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DatasetError) as caught:
        list(dataset.pages())
    assert caught.value.uri == dataset.store.address(key)
    (tmp_path / "dataset" / key).unlink()
    with pytest.raises(ObjectNotFound) as gone:
        list(dataset.pages(["train"]))
    assert gone.value.uri == dataset.store.address(key)
