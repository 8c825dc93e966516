"""Selections: which items the page shows, and in which order.

A selection is an array of item numbers. It is made once and kept, so that a page far behind costs
as much as the first one, and so that an image which no longer meets the filter, because it has just
been approved, does not move the others: the reviewer's place stays. Asking for the same selection
anew makes it again.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from raycap.config import Section
from raycap.errors import ConfigError
from raycap.reviewing.index import Index, Numbers
from raycap.schema import ERROR_CODE, FINISH, FLAG, LOGPROB, NUM_WORDS, STATUS_FAILED, STATUS_OK

_KEPT_SELECTIONS = 8

State = Literal["unreviewed", "approved", "rejected", "edited", "stale"]
_STATES: dict[str, str] = {
    "unreviewed": "review IS NULL AND NOT stale",
    "approved": "review = 'approved' AND NOT stale",
    "rejected": "review = 'rejected' AND NOT stale",
    "edited": "review = 'edited' AND NOT stale",
    "stale": "stale",
}


class Filter(Section):
    """What is shown: all conditions hold at the same time; None and empty text: any."""

    prompt: str = ""
    """Named prompt; empty: the first."""
    text: str = Field(default="", max_length=1_000)
    """Words that occur in the caption or the image id, in any order and case."""
    state: State | None = None
    status: str = ""
    """`ok`, `failed`, or an error code."""
    flag: str = ""
    """A flag, or `any`."""
    finish: str = ""
    min_logprob: float | None = None
    max_logprob: float | None = None
    min_words: int | None = None
    max_words: int | None = None
    metric: str = ""
    """The score that the limits are of."""
    min_score: float | None = None
    max_score: float | None = None
    sort: str = ""
    """`logprob`, `num_words`, `error_code`, `flag`, `finish`, `review` or a metric; empty: as in
    the output."""
    descending: bool = False


@dataclass(kw_only=True)
class _Condition:
    """A condition of SQL and its parameters."""

    terms: list[str]
    parameters: list[Any]

    def add(self, term: str, *parameters: Any) -> None:
        self.terms.append(term)
        self.parameters += parameters

    def between(self, column: str, low: float | None, high: float | None) -> None:
        if low is not None:
            self.add(f"{column} >= ?", low)
        if high is not None:
            self.add(f"{column} <= ?", high)


class Selections:
    """The last few selections of an index; safe to use from many threads."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = Lock()
        self._made: OrderedDict[Filter, Numbers] = OrderedDict()
        self._orders: dict[tuple[str, bool], Numbers] = {}

    def get(self, wanted: Filter, *, anew: bool = False) -> Numbers:
        """Return the items of a filter in order.

        Args:
            wanted: the filter.
            anew: make it again, with the edits since.

        Raises:
            ConfigError: the filter names a prompt, metric or order that there is not.
        """
        with self._lock:
            if not anew and wanted in self._made:
                self._made.move_to_end(wanted)
                return self._made[wanted]
        made = self._make(wanted)
        with self._lock:
            self._made[wanted] = made
            self._made.move_to_end(wanted)
            while len(self._made) > _KEPT_SELECTIONS:
                self._made.popitem(last=False)
        return made

    def of_state(self, state: State) -> Bool[np.ndarray, " items"]:
        """Return whether each item is in a state now, whatever selections were made before."""
        return self._index.where(f"({_STATES[state]})", [])

    def prepare(self, name: str) -> None:
        """Sort by a value ahead, because the first to ask would wait for it."""
        for descending in (False, True):
            self._order(name, descending)

    def forget_order(self, *names: str) -> None:
        """Sort by these again when it is asked for: edits have changed them."""
        with self._lock:
            for key in [key for key in self._orders if key[0] in names]:
                del self._orders[key]

    def _make(self, wanted: Filter) -> Numbers:
        found = condition(self._index, wanted)
        chosen = self._index.where(" AND ".join(found.terms), found.parameters)
        if not wanted.sort:
            return np.flatnonzero(chosen)
        order = self._order(wanted.sort, wanted.descending)
        sorted_items: Numbers = order[chosen[order]]
        return sorted_items

    def _order(self, name: str, descending: bool) -> Numbers:
        with self._lock:
            if (name, descending) in self._orders:
                return self._orders[name, descending]
        keys = self._index.values(_sort_key(self._index, name))
        # Stable, and what has no value comes last both ways.
        made = np.argsort(-keys if descending else keys, kind="stable")
        with self._lock:
            self._orders[name, descending] = made
        return made


def condition(index: Index, wanted: Filter) -> _Condition:
    """Return the condition of a filter.

    Raises:
        ConfigError: it names a prompt or metric that there is not.
    """
    place = _prompt(index, wanted.prompt)
    found = _Condition(terms=[], parameters=[])
    found.between("item", place * index.num_images, (place + 1) * index.num_images - 1)
    for word in wanted.text.lower().split():
        found.add("contains(folded, ?)", word)
    if wanted.state is not None:
        found.add(f"({_STATES[wanted.state]})")
    _add_status(found, wanted.status)
    _add_flag(found, wanted.flag)
    if wanted.finish:
        found.add("finish = ?", wanted.finish)
    found.between("logprob", wanted.min_logprob, wanted.max_logprob)
    found.between("num_words", wanted.min_words, wanted.max_words)
    if wanted.metric:
        found.between(_metric(index, wanted.metric, "metric"), wanted.min_score, wanted.max_score)
    return found


def _add_status(found: _Condition, status: str) -> None:
    if status == STATUS_OK:
        found.add("caption IS NOT NULL")
    elif status:  # a failed image that was given a caption is no longer one
        found.add("caption IS NULL")
    if status not in ("", STATUS_OK, STATUS_FAILED):
        found.add("error_code = ?", status)


def _add_flag(found: _Condition, flag: str) -> None:
    if flag == "any":
        found.add("flag IS NOT NULL")
    elif flag:
        found.add("flag = ?", flag)


def _prompt(index: Index, name: str) -> int:
    if not name:
        return 0
    if name not in index.prompts:
        raise ConfigError(f"there is no prompt named {name!r}", setting="prompt")
    return index.prompts.index(name)


def _metric(index: Index, name: str, setting: str) -> str:
    if name not in index.metrics:
        raise ConfigError(f"{setting}: there is no {name!r} to choose by", setting=setting)
    return f'"{name}"'


def _sort_key(index: Index, name: str) -> str:
    """Return the expression of a number to sort by."""
    if name in (LOGPROB, NUM_WORDS):
        return name
    return _SORT_KEYS[name](index) if name in _SORT_KEYS else _metric(index, name, "sort")


def _by_value(column: str) -> Callable[[Index], str]:
    """Return the expression of the place of a value among all values of a column."""

    def expression(index: Index) -> str:
        whens = " ".join(
            f"WHEN '{value.replace(chr(39), chr(39) * 2)}' THEN {place}"
            for place, value in enumerate(index.facets[column])
        )
        return f"CASE {column} {whens} END" if whens else "NULL::DOUBLE"

    return expression


_SORT_KEYS: dict[str, Callable[[Index], str]] = {
    ERROR_CODE: _by_value(ERROR_CODE),
    FLAG: _by_value(FLAG),
    FINISH: _by_value(FINISH),
    "review": lambda _: (
        "CASE WHEN stale THEN 4 WHEN review = 'edited' THEN 1 WHEN review = 'approved' THEN 2 "
        "WHEN review = 'rejected' THEN 3 ELSE 0 END"
    ),
}
