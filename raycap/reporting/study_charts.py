"""What a study's systems came to, as dots: lengths, CIDEr-D, and what augmentation changes.

How a study's trained systems grow with the images that they were trained on.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raycap.reporting.axes import Plot, new_axes
from raycap.reporting.curves import Chart, Curve, short
from raycap.reporting.numbers import decimal, signed
from raycap.reporting.study_dots import Dot, DotRow, dot_chart, ends
from raycap.reporting.study_record import ink_of, share_name
from raycap.reporting.svg import INKS, inline_svg
from raycap.results.labels import MEAN_WORDS
from raycap.results.study import Score, Study, SystemRecord
from raycap.schema import CIDER_D

Measure = Callable[[SystemRecord], Score | None]
_Pair = tuple[SystemRecord, SystemRecord]


def length_chart(study: Study, anchor: str) -> Chart | None:
    """Draw how many words each main system writes, against people; None before any is scored."""
    people = study.people_words
    return dot_chart(
        f"{anchor}-length-plot",
        "Words a caption",
        "words a caption, in the mean",
        [
            DotRow(
                label=system.name,
                ink=ink_of(study, system.role),
                dots=(Dot(value=words),),
                told=_against(words, people),
            )
            for system in study.main
            if (words := system.value(MEAN_WORDS)) is not None
        ],
        people=None if people is None else (people, f"people: {decimal(people, 1)}"),
        note=f"Mean words of the captions of the {study.split} split. The dashed line is what "
        "people wrote about the same images; the bars are what is missing, or too much.",
    )


def score_chart(study: Study, anchor: str) -> Chart | None:
    """Draw the CIDEr-D of each main system with its interval; None before any is scored."""
    return dot_chart(
        f"{anchor}-score-plot",
        "CIDEr-D",
        "CIDEr-D against what people wrote",
        [
            DotRow(
                label=system.name,
                ink=ink_of(study, system.role),
                dots=(Dot(value=found.value, low=found.low, high=found.high),),
                told=decimal(found.value),
            )
            for system in study.main
            if (found := system.score(CIDER_D)) is not None
        ],
        note="Higher is better. Lines through the dots are confidence intervals over images.",
    )


def augmentation_charts(study: Study, anchor: str) -> tuple[Chart, ...]:
    """Draw CIDEr-D and generalisation gap with and without augmentation on the same images."""
    pairs = tuple(_pairs(study))
    charts = (
        dot_chart(
            f"{anchor}-augmentation-score-plot",
            "CIDEr-D with and without augmentation",
            "CIDEr-D",
            list(_paired(study, pairs, cider_of, decimal)),
            note="Hollow: without augmentation. Filled: with it. Higher is better.",
        ),
        dot_chart(
            f"{anchor}-augmentation-gap-plot",
            "Generalisation gap with and without augmentation",
            "loss on validation images less that on training images",
            list(_paired(study, pairs, gap_of, signed)),
            note="Hollow: without augmentation. Filled: with it. Nearer to 0 is better.",
        ),
    )
    return tuple(chart for chart in charts if chart is not None)


def cider_of(system: SystemRecord) -> Score | None:
    """Give a system's CIDEr-D."""
    return system.score(CIDER_D)


def words_of(system: SystemRecord) -> Score | None:
    """Give the mean words of a system's captions."""
    return system.score(MEAN_WORDS)


def gap_of(system: SystemRecord) -> Score | None:
    """Give a system's generalisation gap."""
    return _known(None if system.training is None else system.training.gap)


def loss_of(system: SystemRecord) -> Score | None:
    """Give a system's validation loss."""
    return _known(None if system.training is None else system.training.validation_loss)


def _known(value: float | None) -> Score | None:
    return None if value is None or not math.isfinite(value) else Score(value=value)


def _against(words: float, people: float | None) -> str:
    told = decimal(words, 1)
    if people is None:
        return told
    difference = decimal(abs(words - people), 1)
    if difference == "0.0":
        return f"{told}, as people"
    return f"{told}, {difference} {'fewer' if words < people else 'more'}"


def _pairs(study: Study) -> Iterator[_Pair]:
    """Find systems that were trained on the same images without and with augmentation."""
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
            ink=ink_of(study, augmented.role),
            dots=(Dot(value=before.value, is_hollow=True), Dot(value=after.value)),
            told=f"{show(before.value)} \N{RIGHTWARDS ARROW} {show(after.value)}",
        )


_MARGIN = 0.06  # of the axis, on both sides
_CLOSE = 0.12  # of the axis: names that lie closer would touch
_APART = 0.012  # of the axis: between the dots of two kinds at the same share
_DASHES = (0, (4, 3))


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
    """Draw what systems come to over the share of the images that they were trained on.

    There are none where all systems were trained on the same share.
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
        note="Higher is better. Upright lines are confidence intervals over images. The share of "
        "the training images is on a scale that doubles.",
    ),
    _Shown(
        name="words",
        title="Words a caption",
        measure=words_of,
        has_people=True,
        note="Mean words of the captions. The dashed line is what people wrote.",
    ),
    _Shown(
        name="loss",
        title="Validation loss",
        measure=loss_of,
        note="Nats a token, in the best epoch; lower is better. Of models that cut captions into "
        "different tokens, only the shapes can be compared, not the heights.",
    ),
    _Shown(
        name="gap",
        title="Generalisation gap",
        measure=gap_of,
        show=signed,
        note="Loss on validation images less that on training images, in the best epoch.",
    ),
)


def _chart(study: Study, anchor: str, shown: _Shown) -> Chart | None:
    lines = _lines(study, shown.measure)
    if not lines:
        return None
    figure, axes = new_axes("share of the training images")
    _set_shares(axes, sorted({share for line in lines for share in line.shares}))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(y=0.1)
    roles = list(dict.fromkeys(line.role for line in lines))
    if shown.has_people and study.people_words is not None:
        axes.axhline(study.people_words, color=INKS["people"], linewidth=1.6, linestyle=_DASHES)
    for line in lines:
        _draw(axes, line, roles.index(line.role) - (len(roles) - 1) / 2)
    name = f"{anchor}-growth-{shown.name}-plot"
    description = f"{shown.title} by the share of the training images. {_told(lines, shown.show)}."
    svg = inline_svg(figure, name, shown.title, description)
    return Chart(name=name, title=shown.title, plot=Plot(svg=svg), key=_key(lines), note=shown.note)


def _lines(study: Study, measure: Measure) -> list[_Line]:
    """Give one line for each kind of system, and one more without augmentation."""
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
                ink=ink_of(study, role),
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
    """Make the lower axis logarithmic, and name the shares there that have room."""
    low, high = math.log2(shares[0]), math.log2(shares[-1])
    span = high - low or 1.0
    axes.set_xlim(low - _MARGIN * span, high + _MARGIN * span)
    named: list[float] = []
    for share in reversed(shares):  # all images are always named
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
        linestyle="-" if line.is_augmented else _DASHES,
        marker="o",
        markersize=5 if line.is_augmented else 9,
        markerfacecolor=ink if line.is_augmented else "none",
        markeredgewidth=1 if line.is_augmented else 1.8,
    )
    for place, dot in zip(places, line.dots, strict=True):
        axes.plot([place] * len(ends(dot)), ends(dot), color=ink, linewidth=1.4, alpha=0.7)


def _told(lines: Sequence[_Line], show: Callable[[float], str]) -> str:
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
    key = [Curve(label=role, ink=ink, epochs=(), values=()) for role, ink in inks]
    if not all(line.is_augmented for line in lines):
        rings = "without augmentation (rings)"
        key.append(Curve(label=rings, ink="text", epochs=(), values=(), is_dashed=True))
    return tuple(key)
