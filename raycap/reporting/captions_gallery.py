"""The gallery of a caption output: images with their captions."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.output import SOURCE_URI, FinishedOutput
from raycap.config import ReportConfig
from raycap.reporting.blocks import Fact
from raycap.reporting.captions_rows import Picks
from raycap.reporting.dataset_pictures import Wanted, reference_pictures
from raycap.reporting.gallery import (
    BEST,
    FAILED,
    RANDOM,
    WORST,
    Answer,
    Example,
    Gallery,
    Order,
    Tab,
)
from raycap.reporting.numbers import decimal
from raycap.reporting.pictures import Picture, fetch_thumbnails
from raycap.schema import (
    ALTERNATIVES,
    CAPTION,
    ERROR_CODE,
    ERROR_MESSAGE,
    HEIGHT_PX,
    IMAGE_ID,
    LOGPROB,
    NUM_WORDS,
    STATUS,
    STATUS_OK,
    WIDTH_PX,
)
from raycap.storage.parallel import ordered_map

_TABS = (
    Tab(key=RANDOM, label="Random"),
    Tab(key=BEST, label="Most certain", order=LOGPROB),
    Tab(key=WORST, label="Least certain", order=LOGPROB, descending=False),
    Tab(key=FAILED, label="Failed"),
)
ORDERS = (
    Order(key=LOGPROB, label="Log-probability"),
    Order(key=NUM_WORDS, label="Length"),
)
"""What images with captions can be sorted by."""


def captions_gallery(output: FinishedOutput, chosen: Picks, config: ReportConfig) -> Gallery:
    """Gather what is known of some images of an output.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the store refuses.
    """
    rows = {row[IMAGE_ID]: row for row in _rows(output, chosen)}
    pictures = _pictures(output, [(it, rows[it][SOURCE_URI]) for it in chosen.ids], config)
    examples = [
        caption_example(
            rows[image_id],
            picture,
            frozenset(tab for tab, ids in chosen.tabs.items() if image_id in ids),
        )
        for image_id, picture in zip(chosen.ids, pictures, strict=True)
    ]
    return Gallery(
        systems=(),
        tabs=_TABS,
        orders=ORDERS,
        others_label="Further captions",
        examples=tuple(examples),
    )


def _pictures(
    output: FinishedOutput, wanted: Sequence[Wanted], config: ReportConfig
) -> list[Picture]:
    """Shrink the images: those that the source holds, or those at their addresses."""
    if output.dataset is not None:
        return reference_pictures(output.dataset, wanted, config)
    return fetch_thumbnails([uri for _, uri in wanted], config)


def _rows(output: FinishedOutput, chosen: Picks) -> Iterator[dict[str, Any]]:
    """Read the rows of the chosen images, each with SOURCE_URI."""
    wanted: dict[int, list[str]] = defaultdict(list)
    for image_id in chosen.ids:
        wanted[chosen.parts[image_id]].append(image_id)

    def read(number: int) -> pa.Table:
        table = output.part(number)
        return table.filter(pc.is_in(table[IMAGE_ID], pa.array(wanted[number], pa.string())))

    for table in ordered_map(read, sorted(wanted), output.read_ahead):
        yield from table.to_pylist()


def caption_example(row: dict[str, Any], picture: Picture, tabs: frozenset[str]) -> Example:
    """Show one caption row.

    Args:
        row: with the columns of CAPTIONS.
        picture: the image.
        tabs: keys of the tabs that it is in.
    """
    is_ok = row[STATUS] == STATUS_OK
    answer = Answer(
        caption=row[CAPTION] if is_ok else None,
        absence="" if is_ok else f"{row[ERROR_CODE]}: {row[ERROR_MESSAGE]}",
        marks=tuple(_marks(row)),
        values={key: float(row[key]) for key in (LOGPROB, NUM_WORDS) if row[key] is not None},
    )
    return Example(
        image_id=row[IMAGE_ID],
        picture=picture,
        answers=(answer,),
        others=tuple(other[CAPTION] for other in row[ALTERNATIVES]),
        tabs=tabs,
    )


def _marks(row: dict[str, Any]) -> Iterator[Fact]:
    if row[LOGPROB] is not None:
        yield "logprob", decimal(row[LOGPROB], 2)
    if row[NUM_WORDS] is not None:
        yield "words", str(row[NUM_WORDS])
    if row[WIDTH_PX] is not None:
        yield "pixels", f"{row[WIDTH_PX]} \N{MULTIPLICATION SIGN} {row[HEIGHT_PX]}"
