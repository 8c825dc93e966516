"""Images that Parquet files contain: any row in any order, those in order read once."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.config import StorageConfig
from raycap.datasets.readers.embedded import EmbeddedImages
from raycap.errors import ErrorCode, ImageError, ObjectNotFound


def images_in(path: Path, count: int = 500) -> list[bytes]:
    images = [f"image {n}".encode() for n in range(count)]
    table = pa.table({"image": [{"bytes": image, "path": None} for image in images]})
    pq.write_table(table, path, row_group_size=100)
    return images


def embedded() -> EmbeddedImages:
    return EmbeddedImages(StorageConfig(), ("image",))


@pytest.mark.parametrize("order", ["ascending", "nearly", "random"])
def test_rows_are_read_in_any_order(order: str, tmp_path: Path) -> None:
    images = images_in(tmp_path / "a.parquet")
    rows = list(range(len(images)))
    if order == "random":
        random.Random(0).shuffle(rows)
    elif order == "nearly":
        rows = [row + shift for row in rows[::10] for shift in (3, 1, 9, 0, 2, 8, 4, 7, 5, 6)]
    reader = embedded()
    uri = str(tmp_path / "a.parquet")
    assert [reader.read(uri, row) for row in rows] == [images[row] for row in rows]


def test_a_row_without_an_image_a_damaged_and_a_missing_file_are_errors_of_images(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table({"image": pa.array([b"x", None])}), tmp_path / "a.parquet")
    uri = str(tmp_path / "a.parquet")
    assert embedded().read(uri, 0) == b"x"
    for row, code in ((1, ErrorCode.EMPTY), (2, ErrorCode.DECODE_FAILED)):
        with pytest.raises(ImageError) as caught:
            embedded().read(uri, row)
        assert caught.value.code is code
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(ImageError):
        embedded().read(str(tmp_path / "b.parquet"), 0)
    with pytest.raises(ObjectNotFound):
        embedded().read(str(tmp_path / "c.parquet"), 0)
