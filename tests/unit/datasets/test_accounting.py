"""Nothing is dropped silently: what a source has is kept, rejected, or not in the subset."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap import schema
from raycap.config import PrepareConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import open_dataset
from raycap.datasets.splits import rank_of, subset_limit
from raycap.errors import DatasetError
from raycap.results.dataset import DatasetRecord, RejectReason
from tests.support.annotated import read, write
from tests.support.caption_sets import MARK, make_dataset, picture

Rows = list[dict[str, Any]]
FILES = ("red.jpg", "twin.jpg", "blue.png", "cut.jpg", "empty.jpg", "gone.jpg")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of FILES: good ones, two of them the same, broken ones, and one missing."""
    folder = tmp_path_factory.mktemp("photos")
    data = picture(folder / "red.jpg", 1)
    picture(folder / "twin.jpg", 1)
    picture(folder / "blue.png", 2)
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").touch()
    return folder


def rejected_of(output: Path) -> Rows:
    rows: Rows = pq.read_table(output / "rejected.parquet").to_pylist()
    return rows


def kept_of(output: Path) -> Rows:
    tables = open_dataset(output, StorageConfig()).pages()
    rows: Rows = pa.concat_tables([schema.DATASET.empty_table(), *tables]).to_pylist()
    return rows


def check_sums(record: DatasetRecord) -> None:
    for whole, kept, lost, left in (
        (
            record.num_source_images,
            record.num_images,
            record.rejected_images,
            record.num_images_not_in_subset,
        ),
        (
            record.num_source_captions,
            record.num_captions,
            record.rejected_captions,
            record.num_captions_not_in_subset,
        ),
    ):
        assert whole == kept + sum(lost.values()) + left


IMAGE_ROWS = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([f"id-{number}" for number in range(8)]),
        "uri": st.sampled_from([None, *FILES]),
        "caption": st.sampled_from([None, "", "one", "two", "two"]),
        "split": st.sampled_from([None, None, "train", "test"]),
    }
)


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(IMAGE_ROWS, min_size=4, max_size=40), subset=st.sampled_from([0.5, 1.0]))
def test_everything_in_a_source_is_once_in_the_output(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, rows: Rows, subset: float
) -> None:
    rows = [{**row, "uri": row["uri"] and f"{photos}/{row['uri']}"} for row in rows]
    output = tmp_path_factory.mktemp("out")
    settings = validate_config(PrepareConfig, {"subset": subset, "engine": {"part_size": 3}})
    try:
        record = make_dataset(output, rows, settings)
    except DatasetError as error:
        assert error.uri == MARK["source"]  # noqa: PT017  may or may not be
        return
    check_sums(record)
    mine = [row for row in rows if rank_of(row["image_id"]) < subset_limit(subset)]
    kept, rejected = kept_of(output), rejected_of(output)
    images = {(row["image_id"], row["uri"]) for row in mine}
    gone = [(row["image_id"], row["uri"]) for row in rejected if row["caption"] is None]
    assert sorted([*gone, *((row["image_id"], row["uri"]) for row in kept)], key=str) == sorted(
        images, key=str
    )
    # A null beside captions is a caption that is no text; alone it says that there is none.
    captioned = {(row["image_id"], row["uri"]) for row in mine if row["caption"] is not None}
    said = Counter(
        (row["image_id"], row["caption"] or "")
        for row in mine
        if (row["image_id"], row["uri"]) in captioned
    )
    found = Counter((row["image_id"], caption) for row in kept for caption in row["captions"])
    found.update((r["image_id"], r["caption"]) for r in rejected if r["caption"] is not None)
    assert found == said
    assert all(row["reason"] for row in rejected)
    others = [row for row in rows if row not in mine]
    assert record.num_images_not_in_subset == len({(r["image_id"], r["uri"]) for r in others})


def test_every_reason_is_written_down_from_annotations_to_the_table(
    photos: Path, tmp_path: Path
) -> None:
    images = [
        *({"id": number, "file_name": name} for number, name in enumerate(FILES)),
        {"id": 100, "file_name": "red.jpg"},
        {"id": 101, "file_name": "mute.jpg"},
        {"id": 102},
    ]
    notes: list[Any] = [
        {"image_id": n, "caption": f"a thing {n}"} for n in (0, 1, 2, 3, 4, 5, 100, 102)
    ]
    notes += [{"image_id": 0, "caption": value} for value in (" ", True, None)]
    notes += [{"image_id": 404, "caption": "of nothing"}, {"caption": "of none"}, "what?"]
    coco = json.dumps({"images": images, "annotations": notes})
    write(tmp_path, {"captions.json": coco})
    rows = read(tmp_path / "captions.json", images=photos)
    rows += [
        {"image_id": "blue.png", "uri": f"{photos}/red.jpg", "caption": "another file"},
        {"image_id": "twice.jpg", "uri": f"{photos}/red.jpg", "caption": "x", "split": "train"},
        {"image_id": "twice.jpg", "uri": f"{photos}/red.jpg", "caption": "y", "split": "test"},
    ]
    record = make_dataset(tmp_path / "out", rows, validate_config(PrepareConfig, {}))
    check_sums(record)
    assert {row["image_id"] for row in kept_of(tmp_path / "out")} == {
        "red.jpg",
        "twin.jpg",
        "blue.png",
    }
    reasons = Counter((row["reason"], row["image_id"]) for row in rejected_of(tmp_path / "out"))
    assert reasons == {
        ("empty_caption", "red.jpg"): 3,
        ("decode_failed", "cut.jpg"): 2,
        ("empty", "empty.jpg"): 2,
        ("not_found", "gone.jpg"): 2,
        ("no_caption", "mute.jpg"): 1,
        ("no_image", "102"): 2,
        ("no_image", "404"): 2,
        ("no_image", "(annotation 13 of captions.json)"): 2,
        ("no_image", "(annotation 14 of captions.json)"): 1,
        ("duplicate_id", "blue.png"): 2,
        ("split_conflict", "twice.jpg"): 3,
    }
    assert {reason for reason, _ in reasons} >= set(RejectReason)
