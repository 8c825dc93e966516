"""The slice of a calibration: the choice of images, and unreadable images."""

from pathlib import Path

import numpy as np
import pytest

from raycap import schema
from raycap.config import ImageConfig, StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.errors import DatasetError
from raycap.experiments.calibration.images import LoadSpec, choose_images, load_block
from raycap.images.decoding import Target, decode
from raycap.storage.stores import digest_of
from tests.support.dataset_samples import dataset_row, write_dataset
from tests.support.report_samples import pillow_as_it_was
from tests.support.tiny_dataset import write_dataset as write_tiny

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")

TARGET = Target(width_px=16, height_px=12)


def spec(uri: str) -> LoadSpec:
    return LoadSpec(
        dataset=uri, storage=StorageConfig(), image=ImageConfig(max_pixels=10_000), target=TARGET
    )


def test_the_choice_is_repeatable_and_a_smaller_one_is_a_subset(tmp_path: Path) -> None:
    store = write_tiny(str(tmp_path / "data"), "train:40", "validation:50")
    dataset = open_dataset(store.uri, StorageConfig())
    some = choose_images(dataset, "validation", 20)
    assert len(some) == 20
    assert list(some) == sorted(some)
    assert set(some) <= {f"{number:06d}.png" for number in range(40, 90)}
    assert some == choose_images(dataset, "validation", 20)
    fewer = choose_images(dataset, "validation", 8)
    assert fewer.items() <= some.items()
    assert fewer != dict(list(some.items())[:8])  # not the first ones, but drawn
    assert len(choose_images(dataset, "validation", 500)) == 50
    first = next(iter(some))
    captions = {
        image_id: captions
        for page in dataset.references(["validation"])
        for image_id, captions in zip(
            page[schema.IMAGE_ID].to_pylist(), page[schema.CAPTIONS_LIST].to_pylist(), strict=True
        )
    }
    assert some[first] == captions[first]


def test_a_split_that_is_missing_or_too_small_is_one_clear_line(tmp_path: Path) -> None:
    store = write_tiny(str(tmp_path / "data"), "train:3", "validation:1")
    dataset = open_dataset(store.uri, StorageConfig())
    with pytest.raises(DatasetError, match=r"'test'.* train, validation"):
        choose_images(dataset, "test", 10)
    with pytest.raises(DatasetError, match=r"'validation' .*\b1 image"):
        choose_images(dataset, "validation", 10)


def test_pixels_equal_those_of_captioning(tmp_path: Path) -> None:
    store = write_tiny(str(tmp_path / "data"), "validation:6")
    dataset = open_dataset(store.uri, StorageConfig())
    ids = ["000001.png", "000004.png"]
    pixels, (read, unreadable) = load_block(ids, spec(store.uri))
    assert (read, unreadable) == (ids, [])
    files = dict(dataset.images(ids))
    expected = [decode(files[image_id], TARGET, ImageConfig()).pixels for image_id in ids]
    assert np.array_equal(pixels, expected)


def test_missing_and_broken_images_are_left_out_and_named(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    store = write_tiny(str(tmp_path / "other"), "validation:3")
    for image_id, data in open_dataset(store.uri, StorageConfig()).images(
        ["000000.png", "000001.png", "000002.png"]
    ):
        (images / image_id).write_bytes(data)
    (images / "000002.png").write_bytes(b"no picture")
    paths = sorted(images.iterdir())
    names = [path.name for path in paths]
    files = [{schema.URI: str(path), schema.DIGEST: digest_of(path.read_bytes())} for path in paths]
    rows = [
        dataset_row(name, "validation", ["a picture"], **file)
        for name, file in zip(names, files, strict=True)
    ]
    uri = write_dataset(tmp_path / "data", rows, [], embedded=False)
    (images / "000000.png").unlink()
    pixels, (read, unreadable) = load_block(names, spec(uri))
    assert pixels.shape == (1, 12, 16, 3)
    assert read == ["000001.png"]
    assert [each.split(" ")[0] for each in unreadable] == ["000000.png", "000002.png"]
    (images / "000001.png").write_bytes((images / "000002.png").read_bytes())
    pixels, (read, unreadable) = load_block(names, spec(uri))
    assert (pixels.shape, read, len(unreadable)) == ((0, 12, 16, 3), [], 3)
