"""Axes of a search's parameters: even, logarithmic, or one place for each choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

from raycap.reporting.curves import short
from raycap.reporting.numbers import NONE
from raycap.reporting.search_importance import is_number
from raycap.reporting.search_record import Search, Value, short_name

_LOG = "loguniform"
_RATE = "lr"
_MIN_SPAN = 10  # of rates, from which on the axis is logarithmic
_MAX_SHOWN = 6  # values that are all named on the axis
_CLOSE = 0.09  # of the axis: names that lie closer would touch
_MAX_CHARS = 14  # of a name in a drawing
_LAST_DRAWN = 0x17F  # code of the last letter that the font of drawings surely has
_SIGNS = "\N{MINUS SIGN}\N{EN DASH}\N{HORIZONTAL ELLIPSIS}"

Tick = tuple[float, str]
"""A place on an axis, 0 to 1, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis, on which values have places from 0 to 1."""

    parameter: str
    choices: tuple[str, ...] = ()
    """Names of the places, evenly spaced; empty where values are numbers."""
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    ticks: tuple[Tick, ...] = ()

    def place(self, value: Value) -> float:
        """Give the place of a value; no number where it has none."""
        if self.choices:
            name = said(value)
            return _spread(self.choices)[name] if name in self.choices else math.nan
        if not is_number(value) or (self.is_log and value <= 0):
            return math.nan
        return self._at(float(value))

    def _at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return 0.5 if high <= low else (value - low) / (high - low)


def parameter_scale(search: Search, parameter: str) -> Scale:
    """Choose the axis of a parameter, by what it is drawn from and what was tried."""
    drawn = search.space.get(parameter, {})
    offered = [value for values in drawn.values() for value in values]
    tried = [trial.params[parameter] for trial in search.measured if parameter in trial.params]
    values = [*offered, *tried]
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers or len(numbers) < len(values):
        return _of_choices(parameter, values)
    is_rate = short_name(parameter) == _RATE
    spans = min(numbers) > 0 and (_LOG in drawn or max(numbers) >= _MIN_SPAN * min(numbers))
    return number_scale(parameter, numbers, is_log=spans and (is_rate or _LOG in drawn))


def number_scale(parameter: str, numbers: Sequence[float], *, is_log: bool = False) -> Scale:
    """Make an axis of numbers.

    Args:
        parameter: whose axis it is.
        numbers: at least one; finite, and above 0 where the axis is logarithmic.
        is_log: whether equal ratios are equally far apart.
    """
    bare = Scale(parameter=parameter, low=min(numbers), high=max(numbers), is_log=is_log)
    ticks = [(bare.place(value), brief(value)) for value in _named(bare, numbers)]
    return Scale(
        parameter=parameter, low=bare.low, high=bare.high, is_log=is_log, ticks=_apart(ticks)
    )


def said(value: Value) -> str:
    """Write a setting in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return brief(float(value)) if is_number(value) else str(value)


def brief(value: float, digits: int = 4) -> str:
    """Write a number with at most so many digits, unless it is whole."""
    is_whole = value == int(value) and abs(value) < 1e6
    return short(value) if is_whole else short(float(f"{value:.{digits}g}"))


def drawn_text(text: str, most: int = _MAX_CHARS) -> str:
    """Make any text fit for a drawing: short, and of letters that its font has."""
    letters = (
        letter if letter.isprintable() and (ord(letter) <= _LAST_DRAWN or letter in _SIGNS) else "?"
        for letter in text[: most + 1]
    )
    plain = "".join(letters)
    return plain if len(plain) <= most else f"{plain[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def shown_params(params: dict[str, Value], parameters: Sequence[str]) -> tuple[str, ...]:
    """Write a trial's settings, a dash for each that it has not."""
    return tuple(said(params[name]) if name in params else NONE for name in parameters)


def _of_choices(parameter: str, values: Sequence[Value]) -> Scale:
    choices = tuple(dict.fromkeys(said(value) for value in values)) or ("none",)
    places = _spread(choices)
    ticks = [(places[name], drawn_text(name)) for name in choices]
    return Scale(parameter=parameter, choices=choices, ticks=_apart(ticks))


def _spread(choices: Sequence[str]) -> dict[str, float]:
    if len(choices) == 1:
        return {choices[0]: 0.5}
    return {name: number / (len(choices) - 1) for number, name in enumerate(choices)}


def _named(scale: Scale, numbers: Sequence[float]) -> list[float]:
    """Choose which numbers of an axis to name: all where there are few."""
    distinct = sorted(set(numbers))
    if len(distinct) <= _MAX_SHOWN:
        return distinct
    locator = LogLocator(subs=(1.0, 3.0)) if scale.is_log else MaxNLocator(4)
    round_ones = [float(value) for value in locator.tick_values(scale.low, scale.high)]
    inside = [value for value in round_ones if scale.low <= value <= scale.high]
    return inside if len(inside) > 1 else [scale.low, scale.high]


def _apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Leave out names that would touch the one before."""
    kept = list[Tick]()
    for place, name in sorted(ticks):
        if not kept or place - kept[-1][0] >= _CLOSE:
            kept.append((place, name))
    return tuple(kept)
