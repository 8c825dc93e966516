"""Section of a length calibration: CIDEr-D against length gap, and the chosen settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raycap.config import ReportConfig
from raycap.reporting.blocks import Fact, Section, Table, Tile, flat_facts, last_name, run_settings
from raycap.reporting.charts import DASHES, HEIGHT, Plot, new_axes, short
from raycap.reporting.numbers import decimal, integer, moment, percent, signed
from raycap.reporting.svg import INKS, inline_svg
from raycap.results.calibration import (
    Calibration,
    ScoredSetting,
    changes,
    frontier,
    read_calibration,
)
from raycap.storage.base import Store

_TALL = HEIGHT + 60
_LARGEST_FILLED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSection(Section):
    """Section of a calibration."""

    template: ClassVar[str] = "calibration.html.jinja"
    kind: ClassVar[str] = "Calibration"

    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    plot: Plot
    least: str
    """The lowest CIDEr-D that the chosen setting may have."""
    best: Table
    """The settings that no other beats, and the initial one."""
    trials: Table
    """All settings."""
    settings: tuple[Fact, ...]


def calibration_section(store: Store, anchor: str, _: ReportConfig) -> CalibrationSection:
    """Read the record of a calibration, and build its section.

    Raises:
        DatasetError: it is damaged.
        StorageError: the store refuses.
    """
    found = read_calibration(store)
    start, chosen, trials = found.start, found.chosen, found.trials
    kept = [start, *(trial for trial in frontier(trials) if trial != start)]
    kept += [] if chosen in kept else [chosen]
    return CalibrationSection(
        anchor=anchor,
        title=f"{last_name(str(found.model.get('name', 'a model')))}, calibrated in length",
        summary=(
            f"split {found.split} of {found.dataset.get('source', 'a dataset')}",
            f"{integer(found.images.num_images)} images",
            f"{integer(len(trials))} settings",
            f"tokenizer {found.tokenizer}",
            *([moment(found.created_at)] if found.created_at else []),
        ),
        tiles=_tiles(start, chosen),
        plot=trade_off_plot(f"{anchor}-trade-plot", found),
        least=decimal(start.cider_d * (1 - found.max_cider_loss)),
        best=_table(kept, found),
        trials=_table(trials, found),
        settings=tuple(_settings(found)),
    )


def _tiles(start: ScoredSetting, chosen: ScoredSetting) -> tuple[Tile, ...]:
    people = chosen.mean_length - chosen.length_gap
    return (
        Tile(
            label="length gap",
            value=signed(chosen.length_gap, 2),
            note=f"before: {signed(start.length_gap, 2)}",
        ),
        Tile(
            label="tokens per caption",
            value=decimal(chosen.mean_length, 1),
            note=f"before: {decimal(start.mean_length, 1)}; people: {decimal(people, 1)}",
        ),
        Tile(
            label="CIDEr-D",
            value=decimal(chosen.cider_d),
            note=f"before: {decimal(start.cider_d)}",
        ),
        Tile(label="BLEU-4", value=decimal(chosen.bleu_4), note=f"before: {decimal(start.bleu_4)}"),
        Tile(
            label="repetition",
            value=percent(chosen.repetition),
            note=f"before: {percent(start.repetition)}",
        ),
    )


def _table(trials: list[ScoredSetting], found: Calibration) -> Table:
    names = [name.replace("_", " ") for name in changes(found.start.generation)]
    rows = [
        (
            _name(trial, found),
            *(f"{value:g}" for value in changes(trial.generation).values()),
            decimal(trial.cider_d),
            decimal(trial.bleu_4),
            decimal(trial.mean_length, 1),
            signed(trial.length_gap, 2),
            percent(trial.repetition),
            integer(trial.num_failed),
        )
        for trial in trials
    ]
    figures = ("CIDEr-D", "BLEU-4", "tokens", "length gap", "repetition", "failed")
    return Table(columns=("setting", *names, *figures), rows=tuple(rows))


def _name(trial: ScoredSetting, found: Calibration) -> str:
    marks = [("initial", found.start), ("chosen", found.chosen)]
    roles = [role for role, marked in marks if trial == marked]
    number = found.trials.index(trial) + 1 if trial in found.trials else 0
    return " ".join([f"{number}", *([f"({', '.join(roles)})"] if roles else [])])


def _settings(found: Calibration) -> Iterator[Fact]:
    yield "output", found.output
    yield from flat_facts(found.dataset, "dataset")
    yield "images", integer(found.images.num_images)
    yield "unreadable images", integer(found.images.num_unreadable)
    yield "references", integer(found.images.num_references)
    yield "duration of the last invocation", f"{decimal(found.wall_s, 1)} s"
    yield from run_settings(found.config, found.model, found.versions)


def trade_off_plot(name: str, calibration: Calibration) -> Plot:
    """Draw all settings; the best of them as a curve, the initial and the chosen one marked.

    Args:
        name: prefix of the ids of the drawing.
        calibration: its result.
    """
    start, chosen, trials = calibration.start, calibration.chosen, calibration.trials
    figure, axes = new_axes("length gap in tokens", _TALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(0.08)
    _draw_people(axes, calibration)
    best = sorted(frontier(trials), key=lambda trial: trial.length_gap)
    _draw(axes, trials, "people", "o", 4)
    _draw(axes, best, "line-0", "o", 6)
    axes.plot(*_places(best), color=INKS["line-0"], linewidth=1.8)
    _draw(axes, [start], "line-1", "s", 9)
    _draw(axes, [chosen], "line-2", "o", 13)
    description = (
        f"Of {len(trials)} settings, the initial one has a length gap of "
        f"{signed(start.length_gap, 2)} tokens with a CIDEr-D of {decimal(start.cider_d)}, the "
        f"chosen one a gap of {signed(chosen.length_gap, 2)} with {decimal(chosen.cider_d)}."
    )
    return Plot(svg=inline_svg(figure, name, "CIDEr-D against length gap", description))


def _draw_people(axes: Axes, calibration: Calibration) -> None:
    """Mark the length of the references, and the lowest CIDEr-D allowed."""
    closed = calibration.closed_gap
    axes.axvspan(-closed, closed, color=INKS["people"], alpha=0.25, linewidth=0)
    axes.axvline(0, color=INKS["people"], linewidth=1.4, linestyle=DASHES)
    bar = calibration.start.cider_d * (1 - calibration.max_cider_loss)
    axes.axhline(bar, color=INKS["text"], linewidth=1.2, linestyle=DASHES)


def _draw(axes: Axes, trials: Sequence[ScoredSetting], ink: str, shape: str, size: int) -> None:
    """Draw a mark per setting; large ones are rings, which hide no others."""
    is_ring = size > _LARGEST_FILLED
    axes.plot(
        *_places(trials),
        linestyle="",
        marker=shape,
        markersize=size,
        markerfacecolor="none" if is_ring else INKS[ink],
        markeredgecolor=INKS[ink],
        markeredgewidth=2.4 if is_ring else 0,
        clip_on=False,
    )


def _places(trials: Sequence[ScoredSetting]) -> tuple[list[float], list[float]]:
    return [trial.length_gap for trial in trials], [trial.cider_d for trial in trials]
