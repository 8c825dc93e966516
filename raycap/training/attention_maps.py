"""Pictures of attention: where a captioner looked for each word of its caption."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

_PER_ROW = 6
_TILE_PX = 180
_GAP_PX = 4
_FONT_PX = 17
_LABEL_PX = 26
_TINT = np.array([255.0, 120.0, 0.0])  # orange: visible on light and dark grey
_STRENGTH = 0.75  # share of the tint where attention is highest


def overlay(
    image: UInt8[np.ndarray, "y x 3"], weights: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "y x 3"]:
    """Draw attention over an image: grey for none, orange for the most.

    Args:
        image: the image.
        weights: non-negative, one per cell of a grid over the whole image; of any scale.

    Returns:
        A picture of the image's size.
    """
    height, width = image.shape[:2]
    grid = Image.fromarray(weights.astype(np.float32) / max(float(weights.max()), 1e-12))
    # Bicubic, because cells are many pixels wide; clipped, because it overshoots.
    smooth = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    share = _STRENGTH * smooth[..., None]
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return (grey * (1 - share) + _TINT * share).round().astype(np.uint8)


def attention_sheet(
    image: UInt8[np.ndarray, "y x 3"],
    words: Sequence[str],
    weights: Float[np.ndarray, "t h w"],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draw an image and its overlay for each word, in rows, each below its word.

    Source: the figures of Xu et al. 2015, arXiv:1502.03044.

    Args:
        image: the captioned image.
        words: the caption's words or tokens.
        weights: attention for each of them, as for `overlay`.

    Returns:
        A picture of a fixed width, for any number of words.
    """
    tiles = [("", image)]
    tiles += [(word, overlay(image, of)) for word, of in zip(words, weights, strict=True)]
    height_px = max(1, round(_TILE_PX * image.shape[0] / image.shape[1]))
    step_px = height_px + _LABEL_PX + _GAP_PX
    num_rows = -(-len(tiles) // _PER_ROW)
    size = (_PER_ROW * (_TILE_PX + _GAP_PX) + _GAP_PX, num_rows * step_px + _GAP_PX)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), _font()
    for number, (word, pixels) in enumerate(tiles):
        row, column = divmod(number, _PER_ROW)
        left, top = _GAP_PX + column * (_TILE_PX + _GAP_PX), _GAP_PX + row * step_px
        pen.text((left + 2, top + 2), _fitting(word, font), fill="black", font=font)
        tile = Image.fromarray(pixels).resize((_TILE_PX, height_px), Image.Resampling.BICUBIC)
        sheet.paste(tile, (left, top + _LABEL_PX))
    return np.asarray(sheet)


def encode_sheets(sheets: Sequence[UInt8[np.ndarray, "_ columns 3"]]) -> bytes:
    """Stack sheets of `attention_sheet` into one JPEG, the content of `attention.jpg`."""
    sink = BytesIO()
    Image.fromarray(np.concatenate(sheets)).save(sink, "JPEG", quality=88)
    return sink.getvalue()


def _font() -> ImageFont.FreeTypeFont:
    # Pillow's default font has Latin letters only.
    folder = Path(matplotlib.get_data_path())
    return ImageFont.truetype(folder / "fonts/ttf/DejaVuSans.ttf", _FONT_PX)


def _fitting(word: str, font: ImageFont.FreeTypeFont) -> str:
    """Shorten a word that is wider than its picture."""
    if font.getlength(word) <= _TILE_PX:
        return word
    kept = len(word)
    while kept and font.getlength(f"{word[:kept]}\N{HORIZONTAL ELLIPSIS}") > _TILE_PX:
        kept -= 1
    return f"{word[:kept]}\N{HORIZONTAL ELLIPSIS}"
