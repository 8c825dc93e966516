"""Rows of a preflight, written by hand."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.captioning.forecast import Round
from tests.support.outputs import failed, row


def sampled(image_id: str, *rounds: Round, is_ok: bool = True, **changes: Any) -> dict[str, Any]:
    """Give a SAMPLE_ANSWERED row; its captioner answered those rounds with it."""
    told = [
        {
            schema.CAPTIONER: one.captioner,
            schema.BATCH_SIZE: one.batch_size,
            schema.NUM_IMAGES: one.num_images,
            schema.SECONDS: one.seconds,
        }
        for one in rounds
    ]
    position = {schema.PART: 0, schema.ROW: 0, schema.NUM_ROWS: 0, schema.PARTIAL: False}
    asked = {schema.PROMPT: 0, schema.IS_FIRST: True}
    measures = {schema.NUM_BYTES: 10, schema.FETCH_S: 0.5, schema.DECODE_S: 0.01}
    answered = row(image_id) if is_ok else failed(image_id)
    return {**answered, **position, **asked, **measures, schema.ROUNDS: told, **changes}


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Make a SAMPLE_ANSWERED table, each row at its place."""
    placed = [{**one, schema.ROW: place} for place, one in enumerate(rows)]
    return pa.Table.from_pylist(placed, schema=schema.SAMPLE_ANSWERED)
