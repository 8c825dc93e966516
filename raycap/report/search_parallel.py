"""All parameters of a search at once: parallel coordinates, and a slice for each parameter."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from raycap.report.axes import WIDTH, Plot, new_axes, write
from raycap.report.curves import Chart, short
from raycap.report.search_charts import shade
from raycap.report.search_importance import ordered_parameters
from raycap.report.search_record import Search, numbers_of, sentence, short_name
from raycap.report.search_scale import Scale, drawn_text, number_scale, parameter_scale
from raycap.report.svg import INKS, inline_svg

MAX_PARAMETERS = 8
"""More axes would be too close to be read."""
MAX_LINES = 300

_FEW = 3  # parameters that fit a narrow plot
_WIDE, _TALL, _LETTER = 920, 330, 6.7  # in points
_HEAD = 1.07  # above an axis, where its name stands
_BARE = (0.0, 1.0)


def parallel_chart(search: Search, anchor: str) -> Chart | None:
    """Draw each trial as a line through its settings to its value; None where there is none."""
    trials = search.measured[:MAX_LINES]
    scales = [parameter_scale(search, name) for name in _drawn(search)]
    if not trials or not scales:
        return None
    scales.append(number_scale(search.metric_label, numbers_of(trials)))
    width = _WIDE if is_wide(search) else WIDTH
    figure, axes = new_axes("", _TALL, width=width, left=5)
    axes.set_position((0.02, 0.04, 0.96, 0.8))
    axes.set_axis_off()
    axes.set_xlim(-0.5, len(scales) - 0.5)
    axes.set_ylim(-0.06, 1.04)
    bad = [search.badness(value) for value in numbers_of(trials)]
    # The better a line, the later it is drawn, over the others.
    for trial, badness in reversed(list(zip(trials, bad, strict=True))):
        is_best = trial is search.best_trial
        settings = [scale.place(trial.params.get(scale.parameter)) for scale in scales[:-1]]
        places = [*settings, scales[-1].place(trial.value)]
        ink = "line-1" if is_best else shade(badness, min(bad), max(bad))
        _draw_line(axes, places, ink, is_best=is_best)
    most = int(width / len(scales) / _LETTER)
    for number, scale in enumerate(scales):
        _draw_axis(axes, number, scale, most, is_value=number == len(scales) - 1)
    best = search.best_trial
    told = f" The best is {best.name}, with {search.show(best.value)}." if best else ""
    description = f"{len(trials)} trials as lines through {len(scales) - 1} parameters.{told}"
    name = f"{anchor}-parallel-plot"
    svg = inline_svg(figure, name, "All parameters at once", description)
    return Chart(
        name=name, title="All parameters at once", plot=Plot(svg=svg), note=_parallel_note(search)
    )


def is_wide(search: Search) -> bool:
    """Whether the parallel coordinates need the whole width of the page."""
    return len(search.parameters) > _FEW


def slice_charts(search: Search, anchor: str) -> tuple[Chart, ...]:
    """Draw the value against each parameter that differs between trials."""
    if not search.measured:
        return ()
    names = ordered_parameters(search)[:MAX_PARAMETERS]
    return tuple(
        _slice(search, parameter_scale(search, name), f"{anchor}-slice-{number}-plot")
        for number, name in enumerate(names, start=1)
    )


def _drawn(search: Search) -> list[str]:
    """Choose the parameters that get an axis, in the order of the space."""
    if len(search.parameters) <= MAX_PARAMETERS:
        return list(search.parameters)
    kept = set((ordered_parameters(search) or list(search.parameters))[:MAX_PARAMETERS])
    return [name for name in search.parameters if name in kept]


def _parallel_note(search: Search) -> str:
    note = (
        f"A line is a trial: the stronger its colour, the better ({search.metric_rule}), "
        "and the thick line is the best one."
    )
    if len(search.parameters) > MAX_PARAMETERS:
        note += (
            f" Of {len(search.parameters)} parameters, those {MAX_PARAMETERS} are drawn that "
            "explain most."
        )
    if len(search.measured) > MAX_LINES:
        note += f" Of {len(search.measured)} trials, the {MAX_LINES} best are drawn."
    return note


def _draw_line(axes: Axes, places: Sequence[float], ink: str, *, is_best: bool) -> None:
    (line,) = axes.plot(range(len(places)), places, color=INKS[ink])
    line.set(zorder=3 if is_best else 2, linewidth=3.2 if is_best else 1.5)
    line.set(solid_joinstyle="round", solid_capstyle="round")
    dots = [(at, place) for at, place in enumerate(places) if math.isfinite(place)]
    if is_best:
        axes.plot(*zip(*dots, strict=True), linestyle="", marker="o", markersize=7, color=INKS[ink])


def _draw_axis(axes: Axes, at: int, scale: Scale, most: int, *, is_value: bool) -> None:
    axes.plot([at, at], _BARE, color=INKS["text"], linewidth=1.2, zorder=1)
    section, _, last = scale.parameter.rpartition(".")
    lines = [scale.parameter] if is_value else [section, last]
    name = "\n".join(drawn_text(line, most) for line in lines)
    weight = "bold" if is_value else "normal"
    write(axes, (float(at), _HEAD), name, ha="center", weight=weight)
    for place, label in scale.ticks:
        axes.plot([at - 0.02, at + 0.02], [place, place], color=INKS["text"], linewidth=1.2)
        write(axes, (at + 0.05, place), label, va="center")


def _slice(search: Search, scale: Scale, name: str) -> Chart:
    label = drawn_text(scale.parameter, 40) + (" (log)" if scale.is_log else "")
    figure, axes = new_axes(label)
    axes.xaxis.label.set_parse_math(False)
    axes.set_xlim(-0.08, 1.08)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_major_locator(NullLocator())
    axes.set_xticks([place for place, _ in scale.ticks], [text for _, text in scale.ticks])
    for tick in axes.get_xticklabels():
        tick.set_parse_math(False)
    axes.margins(y=0.12)
    pairs = list(zip(search.measured, numbers_of(search.measured), strict=True))
    for trial, value in reversed(pairs):
        is_best = trial is search.best_trial
        place = scale.place(trial.params.get(scale.parameter))
        axes.plot(
            [place],
            [value],
            linestyle="",
            marker="o",
            markersize=9 if is_best else 6,
            color=INKS["line-1" if is_best else "line-0"],
            alpha=None if is_best else 0.65,
            markeredgewidth=0,
            clip_on=False,
        )
    label = sentence(search.metric_label)
    title = f"{label} by {short_name(scale.parameter)}"
    description = f"{label} of {len(search.measured)} trials by {scale.parameter}."
    return Chart(
        name=name, title=title, plot=Plot(svg=inline_svg(figure, name, title, description))
    )
