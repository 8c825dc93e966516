"""Work spread over Ray actors, with answers in order, for scores of large sets."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from raycap.errors import RaycapError, RunStopped

T = TypeVar("T")

_AHEAD = 2
"""Items queued at each actor, so that it is never idle while the driver reads."""

RESTARTS = 3
"""Restarts of a lost actor, and retries of its call."""


def spread(
    actors: Sequence[Any], method: str, items: Iterable[T], *arguments: Any
) -> Iterator[tuple[T, Any]]:
    """Call a method of actors on each item; yield each item with its answer, in order.

    Args:
        actors: take the items in turn.
        method: name of the method, called with the item and `arguments`.
        items: read as needed, a few per actor in memory.
        arguments: the same for each call; large ones as references of `ray.put`.

    Raises:
        RaycapError: as an actor raised it.
        RunStopped: actors died repeatedly.
    """
    pending: deque[tuple[T, Any]] = deque()
    try:
        for number, item in enumerate(items):
            if len(pending) == _AHEAD * len(actors):
                yield _answer(pending)
            call = getattr(actors[number % len(actors)], method)
            pending.append((item, call.remote(item, *arguments)))
        while pending:
            yield _answer(pending)
    except RayTaskError as error:
        if isinstance(error.cause, RaycapError):
            raise error.cause from error
        raise
    except RayError as error:
        first_line = str(error).partition("\n")[0]
        raise RunStopped(f"a worker of the evaluation failed ({first_line})") from error


def _answer(pending: deque[tuple[T, Any]]) -> tuple[T, Any]:
    item, answer = pending.popleft()
    return item, ray.get(answer)
