"""Section of a preflight: estimate of the run, and a contact sheet of the sample."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from raycap.config import CaptionConfig
from raycap.reporting.blocks import (
    Fact,
    Failure,
    Section,
    Table,
    Tile,
    failure_table,
    last_name,
    run_settings,
)
from raycap.reporting.captions import ORDERS, OTHERS_LABEL, Messages, caption_example
from raycap.reporting.charts import Plot
from raycap.reporting.gallery import FAILED, Gallery, Tab
from raycap.reporting.numbers import (
    NONE,
    brief,
    decimal,
    integer,
    moment,
    percent,
    plural,
)
from raycap.reporting.pictures import Picture
from raycap.reporting.plots import Histogram, length_plot
from raycap.results.preflight import (
    DECODE,
    FETCH,
    MAX_PICTURES,
    MODEL,
    Preflight,
    Stage,
    TokensAhead,
)
from raycap.schema import (
    ERROR_CODE,
    ERROR_MESSAGE,
    PICTURE,
    ROW,
    STATUS,
    STATUS_OK,
)
from raycap.text import amount, duration

_CAPTIONED = "captioned"
_TABS = (Tab(key=_CAPTIONED, label="Captioned"), Tab(key=FAILED, label="Failed"))
WORKERS = {FETCH: "thread", DECODE: "core", MODEL: "captioner"}
"""What runs in parallel in each stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightSection(Section):
    """Section of a preflight."""

    template: ClassVar[str] = "preflight.html.jinja"
    kind: ClassVar[str] = "Preflight"

    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    warnings: tuple[Fact, ...]
    stages: Table | None
    """None if no image reached the model."""
    bottleneck: str
    lengths: Plot | None
    """None without captions."""
    failures: tuple[Failure, ...]
    num_unshown: int
    """Sampled images that are not in the gallery."""
    settings: tuple[Fact, ...]


def preflight_section(
    found: Preflight, answered: pa.Table, anchor: str, config: CaptionConfig
) -> PreflightSection:
    """Build the section.

    Args:
        found: result of the preflight.
        answered: SAMPLE_ANSWERED rows of the sample, in any order.
        anchor: prefix of the ids of the section.
        config: all settings.
    """
    drawn = answered.take(pc.sort_indices(answered[ROW]))
    rows = drawn.slice(0, MAX_PICTURES).to_pylist()
    model = str(found.model.get("name", "an unknown model"))
    messages = Messages()
    messages.add(drawn.filter(pc.is_valid(drawn[ERROR_CODE])), ERROR_CODE, ERROR_MESSAGE)
    histogram = Histogram(counts=found.sample.lengths, mean=found.sample.mean_words)
    return PreflightSection(
        anchor=anchor,
        title=f"{last_name(found.source)}, to be captioned by {last_name(model)}",
        summary=(
            f"{integer(found.sample.num_images)} of {integer(found.num_images)} images of "
            f"{found.source}, drawn at random",
            model,
            moment(found.made_at),
        ),
        tiles=tuple(_tiles(found)),
        warnings=warnings(found),
        stages=None if found.estimate is None else _stage_table(found.estimate.stages),
        bottleneck="" if found.estimate is None else found.estimate.bottleneck,
        lengths=length_plot(f"{anchor}-length-plot", "words", histogram)
        if found.sample.num_ok
        else None,
        failures=failure_table(found.sample.failed, messages.shown()),
        gallery=Gallery(
            systems=(),
            tabs=_TABS,
            orders=ORDERS,
            others_label=OTHERS_LABEL,
            examples=tuple(
                caption_example(row, _picture(row), frozenset([_tab(row)])) for row in rows
            ),
        ),
        num_unshown=len(answered) - len(rows),
        settings=_settings(found, config),
    )


def warnings(found: Preflight) -> tuple[Fact, ...]:
    """List what makes the estimate uncertain, each with advice."""
    listed = []
    if found.estimate is None:
        listed.append(("No estimate.", "No sampled image reached the model; see the failures."))
    elif found.estimate.may_grow:
        listed.append(
            (
                "The run may be faster.",
                f"The sample was too small for batches of more than {found.estimate.batch_size} "
                "images; use a larger --preflight to find out.",
            )
        )
    if found.captions_once:
        listed.append(
            (
                "The run may be faster.",
                "Images that are the same bytes as others cost the model nothing "
                "(engine.deduplicate); a sample does not show how many there are.",
            )
        )
    if found.sample.num_images < found.num_wanted:
        listed.append(
            (
                "The time limit was reached.",
                f"{integer(found.sample.num_images)} of {integer(found.num_wanted)} images were "
                "captioned within preflight.max_time_s.",
            )
        )
    return tuple(listed)


def _tiles(found: Preflight) -> list[Tile]:
    sample, ahead = found.sample, found.estimate
    tiles = [Tile(label="images to caption", value=integer(found.num_pending))]
    if ahead is not None:
        ends = moment(found.ends_at) if found.ends_at else "in more than a century"
        tiles += [
            Tile(
                label="images/s",
                value=decimal(ahead.images_per_s, 1),
                note=f"on {plural(ahead.num_captioners, 'captioner')}",
            ),
            Tile(label="estimated time", value=duration(ahead.run_s), note=f"ends {ends}"),
            Tile(label=f"{ahead.unit}-hours", value=amount(ahead.unit_hours)),
        ]
        if ahead.cost is not None:
            note = f"at {found.price_per_hour:g} per hour"
            tiles.append(Tile(label="cost", value=amount(ahead.cost), note=note))
    if found.tokens is not None:
        tiles += _token_tiles(found.tokens)
    return [
        *tiles,
        Tile(
            label="failed in the sample",
            value=percent(sample.failed_share),
            note=f"{integer(sample.num_failed)} of {integer(sample.num_images)}",
        ),
        Tile(
            label="words per caption",
            value=decimal(sample.mean_words if sample.num_ok else None, 1),
        ),
    ]


def _token_tiles(tokens: TokensAhead) -> list[Tile]:
    read, written = integer(tokens.num_prompt_tokens), integer(tokens.num_tokens)
    tiles = [Tile(label="tokens", value=read, note=f"read, and {written} written")]
    if tokens.cost is not None:
        tiles.append(Tile(label="cost of tokens", value=amount(tokens.cost)))
    return tiles


def _stage_table(stages: Sequence[Stage]) -> Table:
    return Table(
        columns=("stage", "time per image", "in parallel", "images/s"),
        rows=tuple(
            (
                stage.name,
                brief(stage.seconds_per_image),
                plural(stage.at_a_time, WORKERS[stage.name]),
                NONE if stage.images_per_s is None else decimal(stage.images_per_s, 1),
            )
            for stage in stages
        ),
    )


def _tab(row: dict[str, Any]) -> str:
    return _CAPTIONED if row[STATUS] == STATUS_OK else FAILED


def _picture(row: dict[str, Any]) -> Picture:
    if row[PICTURE] is None:
        return Picture(reason=str(row[ERROR_CODE] or "not read"))
    with Image.open(BytesIO(row[PICTURE])) as picture:
        width_px, height_px = picture.size
    data = f"data:image/webp;base64,{b64encode(row[PICTURE]).decode()}"
    return Picture(data=data, width_px=width_px, height_px=height_px)


def _settings(found: Preflight, config: CaptionConfig) -> tuple[Fact, ...]:
    return (
        ("source", found.source),
        ("output", found.output),
        ("images of the source", integer(found.num_images)),
        ("duration of the sample", duration(found.sample_s)),
        *run_settings(config.model_dump(mode="json"), found.model, found.versions),
    )
