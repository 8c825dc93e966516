"""Charts of a study: dots per system, and growth with the number of training images."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from raycap.reporting.charts import (
    DASHES,
    Chart,
    Curve,
    Plot,
    drawn_text,
    new_axes,
    number_vertically,
    short,
    write,
    write_above,
)
from raycap.reporting.numbers import decimal, signed
from raycap.reporting.svg import INKS, NUM_LINE_INKS, inline_svg
from raycap.results.labels import MEAN_WORDS
from raycap.results.study import Score, Study, SystemRecord
from raycap.schema import CIDER_D

Measure = Callable[[SystemRecord], Score | None]
_Pair = tuple[SystemRecord, SystemRecord]

_ROW = 40  # height in points
_MARGINS = 69  # of a plot, above and below, in points
_MAX_CHARS = 28  # of a name; a value is beside it
_NAME_UP, _DOT_DOWN = 0.2, 0.2  # of a row, from its middle
_ROOM = 1.06  # of an axis, beyond its last dot
_EDGE = 0.035  # of an axis: half the width of a number
_LATE = 0.75  # of an axis: a label that begins further right is right-aligned
_MARGIN = 0.06  # of the axis, on both sides
_CLOSE = 0.12  # of the axis: closer labels would overlap
_APART = 0.012  # of the axis: between the dots of two kinds at the same share


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A value, with its interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    is_hollow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DotRow:
    """Values of one system; a line joins its dots."""

    label: str
    """Any text."""
    ink: str
    """A key of INKS."""
    dots: tuple[Dot, ...]
    text: str
    """The values as text."""


def share_name(share: float) -> str:
    """Format a share of images: 0.25 as `25 %`."""
    return f"{100 * share:.3g} %"


def _ink_of(study: Study, role: str) -> str:
    """Return the ink of a kind of system, the same in all charts."""
    roles = list(dict.fromkeys(system.role for system in study.systems))
    return f"line-{roles.index(role) % NUM_LINE_INKS}"


def length_chart(study: Study, anchor: str) -> Chart | None:
    """Draw the mean words of each main system and of people; None before any has a score."""
    people = study.people_words
    return dot_chart(
        f"{anchor}-length-plot",
        "Words per caption",
        "mean words per caption",
        [
            DotRow(
                label=system.name,
                ink=_ink_of(study, system.role),
                dots=(Dot(value=words),),
                text=_against(words, people),
            )
            for system in study.main
            if (words := system.value(MEAN_WORDS)) is not None
        ],
        people=None if people is None else (people, f"people: {decimal(people, 1)}"),
        note=f"Mean words per caption on the {study.split} split. The dashed line is the mean of "
        "the references of the same images; the bars show the difference.",
    )


def score_chart(study: Study, anchor: str) -> Chart | None:
    """Draw the CIDEr-D of each main system with its interval; None before any has a score."""
    return dot_chart(
        f"{anchor}-score-plot",
        "CIDEr-D",
        "CIDEr-D",
        [
            DotRow(
                label=system.name,
                ink=_ink_of(study, system.role),
                dots=(Dot(value=found.value, low=found.low, high=found.high),),
                text=decimal(found.value),
            )
            for system in study.main
            if (found := system.score(CIDER_D)) is not None
        ],
        note="Higher is better. Lines through the dots are confidence intervals over images.",
    )


def augmentation_charts(study: Study, anchor: str) -> tuple[Chart, ...]:
    """Draw CIDEr-D and generalisation gap with and without augmentation."""
    pairs = tuple(_pairs(study))
    charts = (
        dot_chart(
            f"{anchor}-augmentation-score-plot",
            "CIDEr-D with and without augmentation",
            "CIDEr-D",
            list(_paired(study, pairs, cider_of, decimal)),
            note="Hollow: without augmentation. Filled: with augmentation. Higher is better.",
        ),
        dot_chart(
            f"{anchor}-augmentation-gap-plot",
            "Generalisation gap with and without augmentation",
            "validation loss minus loss on training images",
            list(_paired(study, pairs, gap_of, signed)),
            note="Hollow: without augmentation. Filled: with augmentation. Nearer to 0 is better.",
        ),
    )
    return tuple(chart for chart in charts if chart is not None)


def cider_of(system: SystemRecord) -> Score | None:
    """Return a system's CIDEr-D."""
    return system.score(CIDER_D)


def words_of(system: SystemRecord) -> Score | None:
    """Return the mean words of a system's captions."""
    return system.score(MEAN_WORDS)


def gap_of(system: SystemRecord) -> Score | None:
    """Return a system's generalisation gap."""
    return _known(None if system.training is None else system.training.gap)


def loss_of(system: SystemRecord) -> Score | None:
    """Return a system's validation loss."""
    return _known(None if system.training is None else system.training.validation_loss)


def _known(value: float | None) -> Score | None:
    return None if value is None or not math.isfinite(value) else Score(value=value)


def _against(words: float, people: float | None) -> str:
    text = decimal(words, 1)
    if people is None:
        return text
    difference = decimal(abs(words - people), 1)
    if difference == "0.0":
        return f"{text}, like people"
    return f"{text}, {difference} {'fewer' if words < people else 'more'}"


def _pairs(study: Study) -> Iterator[_Pair]:
    """Find pairs of systems trained on the same images, without and with augmentation."""
    plain = {(it.role, it.subset): it for it in study.trained if not it.is_augmented}
    for system in study.trained:
        other = plain.get((system.role, system.subset))
        if system.is_augmented and other is not None:
            yield other, system


def _paired(
    study: Study, pairs: tuple[_Pair, ...], measure: Measure, show: Callable[[float], str]
) -> Iterator[DotRow]:
    for plain, augmented in pairs:
        before, after = measure(plain), measure(augmented)
        if before is None or after is None:
            continue
        is_whole = augmented.subset == 1
        of = "" if is_whole else f", {share_name(augmented.subset)}"
        yield DotRow(
            label=f"{augmented.role}{of}",
            ink=_ink_of(study, augmented.role),
            dots=(Dot(value=before.value, is_hollow=True), Dot(value=after.value)),
            text=f"{show(before.value)} \N{RIGHTWARDS ARROW} {show(after.value)}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    role: str
    ink: str
    is_augmented: bool
    shares: tuple[float, ...]
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    name: str
    title: str
    measure: Measure
    note: str
    show: Callable[[float], str] = decimal
    has_people: bool = False


def growth_charts(study: Study, anchor: str) -> tuple[Chart, ...]:
    """Draw scores and losses of systems against their share of the training images.

    Empty if all systems were trained on the same share.
    """
    if len({system.subset for system in study.trained}) < 2:
        return ()
    charts = (_chart(study, anchor, shown) for shown in _SHOWN)
    return tuple(chart for chart in charts if chart is not None)


_SHOWN = (
    _Shown(
        name="score",
        title="CIDEr-D",
        measure=cider_of,
        note="Higher is better. Vertical lines are confidence intervals over images. The "
        "horizontal axis is logarithmic.",
    ),
    _Shown(
        name="words",
        title="Words per caption",
        measure=words_of,
        has_people=True,
        note="Mean words per caption. The dashed line is the mean of the references.",
    ),
    _Shown(
        name="loss",
        title="Validation loss",
        measure=loss_of,
        note="Nats per token, in the best epoch; lower is better. Models with different "
        "tokenizers differ in the level of their losses: compare only the shapes of the curves.",
    ),
    _Shown(
        name="gap",
        title="Generalisation gap",
        measure=gap_of,
        show=signed,
        note="Validation loss minus loss on training images, in the best epoch.",
    ),
)


def _chart(study: Study, anchor: str, shown: _Shown) -> Chart | None:
    lines = _lines(study, shown.measure)
    if not lines:
        return None
    figure, axes = new_axes("share of the training images")
    _set_shares(axes, sorted({share for line in lines for share in line.shares}))
    number_vertically(axes)
    roles = list(dict.fromkeys(line.role for line in lines))
    if shown.has_people and study.people_words is not None:
        axes.axhline(study.people_words, color=INKS["people"], linewidth=1.6, linestyle=DASHES)
    for line in lines:
        _draw(axes, line, roles.index(line.role) - (len(roles) - 1) / 2)
    name = f"{anchor}-growth-{shown.name}-plot"
    description = (
        f"{shown.title} by share of the training images. {_values_text(lines, shown.show)}."
    )
    svg = inline_svg(figure, name, shown.title, description)
    return Chart(name=name, title=shown.title, plot=Plot(svg=svg), key=_key(lines), note=shown.note)


def _lines(study: Study, measure: Measure) -> list[_Line]:
    """Return a line per kind of system, and a further one without augmentation."""
    found: dict[tuple[str, bool], list[tuple[float, Dot]]] = {}
    for system in study.trained:
        if (dot := _dot(system, measure)) is not None:
            of_kind = found.setdefault((system.role, system.is_augmented), [])
            of_kind.append((system.subset, dot))
    lines = []
    for (role, is_augmented), points in found.items():
        shares, dots = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        lines.append(
            _Line(
                role=role,
                ink=_ink_of(study, role),
                is_augmented=is_augmented,
                shares=shares,
                dots=dots,
            )
        )
    return lines


def _dot(system: SystemRecord, measure: Measure) -> Dot | None:
    found = measure(system)
    if found is None:
        return None
    return Dot(value=found.value, low=found.low, high=found.high, is_hollow=not system.is_augmented)


def _set_shares(axes: Axes, shares: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic, and label the shares that have room."""
    low, high = math.log2(shares[0]), math.log2(shares[-1])
    span = high - low or 1.0
    axes.set_xlim(low - _MARGIN * span, high + _MARGIN * span)
    named: list[float] = []
    for share in reversed(shares):  # the label of all images is always shown
        if not named or math.log2(named[-1]) - math.log2(share) >= _CLOSE * span:
            named.append(share)
    axes.set_xticks([math.log2(share) for share in named], list(map(share_name, named)))


def _draw(axes: Axes, line: _Line, aside: float) -> None:
    low, high = axes.get_xlim()
    places = [math.log2(share) + aside * _APART * (high - low) for share in line.shares]
    ink = INKS[line.ink]
    axes.plot(
        places,
        [dot.value for dot in line.dots],
        color=ink,
        linewidth=1.8,
        linestyle="-" if line.is_augmented else DASHES,
        marker="o",
        markersize=5 if line.is_augmented else 9,
        markerfacecolor=ink if line.is_augmented else "none",
        markeredgewidth=1 if line.is_augmented else 1.8,
    )
    for place, dot in zip(places, line.dots, strict=True):
        axes.plot([place] * len(ends(dot)), ends(dot), color=ink, linewidth=1.4, alpha=0.7)


def _values_text(lines: Sequence[_Line], show: Callable[[float], str]) -> str:
    return "; ".join(
        f"{_label(line)}: "
        + ", ".join(
            f"{show(dot.value)} at {share_name(share)}"
            for share, dot in zip(line.shares, line.dots, strict=True)
        )
        for line in lines
    )


def _label(line: _Line) -> str:
    return line.role if line.is_augmented else f"{line.role} without augmentation"


def _key(lines: Sequence[_Line]) -> tuple[Curve, ...]:
    inks = dict.fromkeys((line.role, line.ink) for line in lines)
    key = [Curve(label=role, ink=ink) for role, ink in inks]
    if not all(line.is_augmented for line in lines):
        rings = "without augmentation (rings)"
        key.append(Curve(label=rings, ink="text", is_dashed=True))
    return tuple(key)


def dot_chart(
    name: str,
    title: str,
    unit: str,
    rows: Sequence[DotRow],
    *,
    people: tuple[float, str] | None = None,
    note: str = "",
) -> Chart | None:
    """Draw rows of dots; None without rows.

    Args:
        name: prefix of the ids of the drawing.
        title: of the chart.
        unit: label of the axis.
        rows: from top to bottom.
        people: value of the references and its label; a line joins it with each row.
        note: shown below the plot.
    """
    if not rows:
        return None
    figure, axes = new_axes(unit, _MARGINS + _ROW * len(rows), left=12)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.yaxis.set_major_locator(NullLocator())
    low, high = _limits(rows, people)
    axes.set_xlim(low, high)
    axes.set_xticks(_ticks(low, high))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if people is not None:
        _draw_people(axes, *people)
    for place, row in enumerate(rows):
        _draw_row(axes, place, row, people)
    values = "; ".join(f"{row.label}: {row.text}" for row in rows)
    against = f" {people[1]}." if people else ""
    svg = inline_svg(figure, name, title, f"{title}. {values}.{against}")
    return Chart(name=name, title=title, plot=Plot(svg=svg), note=note)


def ends(dot: Dot) -> tuple[float, ...]:
    """Return the interval of a dot; empty if it has none."""
    if dot.low is None or dot.high is None:
        return ()
    return (dot.low, dot.high) if math.isfinite(dot.low + dot.high) else ()


def _limits(rows: Sequence[DotRow], people: tuple[float, str] | None) -> tuple[float, float]:
    """Return limits that include 0 and all values, so that lengths are to scale."""
    dots = [dot for row in rows for dot in row.dots]
    values = [0.0, *(end for dot in dots for end in (dot.value, *ends(dot)))]
    values += [people[0]] if people else []
    low, high = _ROOM * min(values), _ROOM * max(values)
    return (low, high) if high > low else (0.0, 1.0)


def _ticks(low: float, high: float) -> list[float]:
    """Choose the numbers of the axis; one at its end would be cut off, but a plain 0 fits."""
    edge = _EDGE * (high - low)
    found = [float(tick) for tick in MaxNLocator(6).tick_values(low, high)]
    return [tick for tick in found if tick == low == 0 or low + edge <= tick <= high - edge]


def _draw_people(axes: Axes, at: float, label: str) -> None:
    axes.axvline(at, color=INKS["people"], linewidth=1.6, linestyle=DASHES)
    is_late = at > _LATE * axes.get_xlim()[1]
    write_above(axes, at, label, is_late=is_late, offset=3.0 if is_late else 0.0)


def _draw_row(axes: Axes, place: int, row: DotRow, people: tuple[float, str] | None) -> None:
    low, high = axes.get_xlim()
    middle, top = place + _DOT_DOWN, place - _NAME_UP
    ink = INKS[row.ink]
    axes.plot([low, high], [middle, middle], color=INKS["grid"], linewidth=0.8)
    joined = [dot.value for dot in row.dots] + ([people[0]] if people else [])
    axes.plot([min(joined), max(joined)], [middle, middle], color=ink, linewidth=2.4, alpha=0.4)
    for dot in row.dots:
        axes.plot(ends(dot), [middle] * len(ends(dot)), color=ink, linewidth=1.6)
        axes.plot([dot.value], [middle], linestyle="", marker="o", markersize=9, color=ink)
        axes.lines[-1].set(zorder=4, clip_on=False)
        if dot.is_hollow:
            axes.lines[-1].set(markerfacecolor="none", markeredgewidth=2)
    write(axes, (low, top), drawn_text(row.label, _MAX_CHARS), va="center")
    write(axes, (high, top), row.text, ink="ink", ha="right", va="center", weight="bold")
