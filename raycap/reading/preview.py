"""The first rows as a small table of texts."""

from collections.abc import Sequence
from typing import Any

from raycap.reading.scores import SYSTEM
from raycap.results.display import Table
from raycap.schema import (
    CAPTION,
    CAPTIONS_LIST,
    CIDER_D,
    ERROR_CODE,
    IMAGE_ID,
    REFERENCE_CAPTIONS,
    SPLIT,
)
from raycap.text import brief

_TELLING = (
    SYSTEM,
    IMAGE_ID,
    SPLIT,
    CAPTION,
    ERROR_CODE,
    CAPTIONS_LIST,
    REFERENCE_CAPTIONS,
    CIDER_D,
)
"""Columns that are shown if they are there."""
_MAX_COLUMNS = 8
_MAX_CHARS = 100


def preview(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], prompts: Sequence[str]
) -> Table | None:
    """Return some rows with their most important columns; None if there is no row.

    Args:
        rows: The first rows.
        columns: Their columns.
        prompts: Named prompts: the columns of their answers are shown instead of the caption.
    """
    telling = [name for name in _TELLING if name != CAPTION or not prompts]
    found = [name for name in (*telling, *prompts) if name in columns] or columns
    names = found[:_MAX_COLUMNS]
    if not rows:
        return None
    return Table(headings=names, rows=[[_told(row[name]) for name in names] for row in rows])


def _told(value: Any) -> str:
    """Return a value as a short text."""
    if isinstance(value, dict):  # an answer; what failed has no caption
        value = value.get(CAPTION) or value.get(ERROR_CODE) or value
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        value = " | ".join(map(str, value))
    return "" if value is None else brief(str(value), _MAX_CHARS)
