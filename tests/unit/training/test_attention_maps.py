"""Pictures of attention."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from raycap.training.attention_maps import attention_sheet, encode_sheets, overlay

GREY = np.full((70, 140, 3), 128, np.uint8)


def spot(row: int, column: int) -> np.ndarray:
    weights = np.zeros((7, 7))
    weights[row, column] = 1.0
    return weights


def redness(pixels: np.ndarray) -> np.ndarray:
    """How much more red than blue: 0 for plain grey."""
    red, blue = (pixels[..., channel].astype(np.int64) for channel in (0, 2))
    return np.subtract(red, blue)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (6, 1)])
def test_the_tint_is_where_the_attention_is(row: int, column: int) -> None:
    red = redness(overlay(GREY, spot(row, column)))
    y, x = divmod(int(red.argmax()), 140)
    assert (y // 10, x // 20) == (row, column)
    assert red.max() > 100
    far = red[(np.arange(70) // 10 - row) ** 2 > 4]
    assert abs(far).max() == 0


def test_the_scale_of_the_weights_does_not_matter() -> None:
    weights = np.random.default_rng(0).random((7, 7))
    assert np.array_equal(overlay(GREY, weights), overlay(GREY, weights / weights.sum()))


def test_even_attention_is_even_and_none_is_grey() -> None:
    even = overlay(GREY, np.full((7, 7), 1 / 49))
    assert (even == even[0, 0]).all()
    colour = np.random.default_rng(0).integers(0, 255, (70, 140, 3), np.uint8)
    assert (redness(overlay(colour, np.zeros((7, 7)))) == 0).all()


def test_a_sheet_has_a_picture_for_each_word_in_order() -> None:
    words = ["a", "dog", "runs", "fast", "in", "the", "naïve", "W" * 99]
    weights = np.stack([spot(3, number % 7) for number in range(len(words))])
    sheet = attention_sheet(GREY, words, weights)
    tile_px, label_px, gap_px = 180, 26, 4
    height_px = tile_px // 2
    assert sheet.shape == (2 * (height_px + label_px + gap_px) + gap_px, 6 * 184 + gap_px, 3)
    for number in range(1, 1 + len(words)):
        row, column = divmod(number, 6)
        top = gap_px + row * (height_px + label_px + gap_px)
        left = gap_px + column * (tile_px + gap_px)
        label = sheet[top : top + label_px, left : left + tile_px]
        tile = sheet[top + label_px : top + label_px + height_px, left : left + tile_px]
        assert label.min() < 100  # it is written
        assert (redness(tile).max(axis=0).argmax() * 7) // tile_px == (number - 1) % 7
    first = sheet[gap_px + label_px : gap_px + label_px + height_px, gap_px : gap_px + tile_px]
    assert (first == 128).all()


def test_words_and_weights_must_have_the_same_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        attention_sheet(GREY, ["a", "dog"], np.zeros((1, 7, 7)))


def test_sheets_of_any_length_are_stacked_into_one_picture() -> None:
    sheets = [
        attention_sheet(GREY, ["word"] * count, np.ones((count, 7, 7))) for count in (0, 3, 20)
    ]
    with Image.open(BytesIO(encode_sheets(sheets))) as picture:
        assert picture.format == "JPEG"
        assert picture.height == sum(len(sheet) for sheet in sheets)
