"""A dataset for the Hugging Face Hub, read by the library `datasets` itself."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raycap.config import HubImages
from raycap.exporting.export import export
from raycap.storage.local import etag_of
from tests.support import outputs
from tests.support.outputs import failed, row

datasets: Any = pytest.importorskip("datasets")

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output


@pytest.mark.parametrize("images", list(HubImages))
def test_datasets_reads_images_and_captions(
    images: HubImages,
    output: Callable[..., str],
    tmp_path: Path,
    make_jpeg: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows = []
    for n in range(2):
        path = tmp_path / "photos" / f"{n}.jpg"
        make_jpeg(path, seed=n)
        rows.append(row(path.name, f"a cat, {n}", uri=str(path), etag=etag_of(path.stat())))
    # The first part has no captioned image: its file is the one that types are read from.
    uri = output([failed("bad.jpg")], rows[:1], rows[1:])
    export(uri, tmp_path / "dataset", to="hf", images=images)
    read = datasets.load_dataset(
        str(tmp_path / "dataset"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(read.features["image"], datasets.Image)
    assert read["caption"][:] == ["a cat, 0", "a cat, 1"]
    for found, path in zip(read, sorted((tmp_path / "photos").iterdir()), strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(found["image"]), np.asarray(image))
    streamed = datasets.load_dataset(str(tmp_path / "dataset"), split="train", streaming=True)
    assert [found["image_id"] for found in streamed] == ["0.jpg", "1.jpg"]
    del read, found, streamed
    gc.collect()  # closes what `datasets` leaves open
