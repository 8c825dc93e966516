"""Sizes of images, against transformers' own functions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Idefics3ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from raycap.images.grids import MOST_ELONGATED, PatchGrid, TileGrid

SIDES = st.integers(1, 3000)


@given(width=SIDES, height=SIDES, max_pixels=st.integers(100_000, 2_000_000))
@settings(max_examples=300, deadline=None)
def test_patches_are_those_of_qwen_vl(width: int, height: int, max_pixels: int) -> None:
    grid = PatchGrid(multiple_px=28, min_pixels=56 * 56, max_pixels=max_pixels)
    size = grid.size_of(width, height)
    assert size[0] * size[1] <= max_pixels
    bounds = {"factor": 28, "min_pixels": 56 * 56, "max_pixels": max_pixels}
    assert smart_resize(*size[::-1], **bounds) == size[::-1], "the processor leaves it as it is"
    if max(width, height) <= MOST_ELONGATED * min(width, height):
        expected = smart_resize(height, width, **bounds)
        if expected[0] * expected[1] <= max_pixels:  # smart_resize exceeds it for long images
            assert size[::-1] == expected


PROCESSOR = Idefics3ImageProcessor(
    size={"longest_edge": 32}, max_image_size={"longest_edge": 8}, return_row_col_info=True
)


@given(width=st.integers(1, 200), height=st.integers(1, 200), num_tiles=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_tiles_are_those_of_idefics3(width: int, height: int, num_tiles: int) -> None:
    grid = TileGrid(tile_px=8, longest_px=8 * num_tiles)
    size = grid.size_of(width, height)
    assert size[0] * size[1] <= grid.max_pixels
    for shape in ((height, width), size[::-1]):
        found = PROCESSOR(
            torch.zeros((3, *shape), dtype=torch.uint8), size={"longest_edge": grid.longest_px}
        )
        tiles = max(1, found["rows"][0][0]), max(1, found["cols"][0][0])
        assert (size[1], size[0]) == (8 * tiles[0], 8 * tiles[1])


@pytest.mark.parametrize("max_pixels", [1, 7, 1_000, 2**20])
@pytest.mark.parametrize("size", [(1, 1), (3, 5_000), (640, 480), (4_000, 3_001)])
def test_without_a_multiple_images_only_shrink(max_pixels: int, size: tuple[int, int]) -> None:
    width, height = PatchGrid(max_pixels=max_pixels).size_of(*size)
    assert 1 <= width * height <= max_pixels
    assert width <= size[0]
    assert height <= size[1]


def test_the_aspect_ratio_is_kept() -> None:
    width, height = PatchGrid(max_pixels=10_000).size_of(4_000, 1_000)
    assert (width, height) == (200, 50)
