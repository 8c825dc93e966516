"""Who scores: this process, or actors of Ray where the set is large.

Work spread over actors, in order: what both n-gram metrics and CLIPScore of large sets need.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from raycap.errors import RaycapError, RunStopped
from raycap.evaluation.scoring import Scorer, ScoringSpec

T = TypeVar("T")

_AHEAD = 2
"""Items that wait at each actor, so that it is never idle while the driver reads."""

RESTARTS = 3
"""Times that a lost actor, or the call it was at, is started again."""


def spread(
    actors: Sequence[Any], method: str, items: Iterable[T], *arguments: Any
) -> Iterator[tuple[T, Any]]:
    """Call a method of some actors on each item; yield each item with its answer, in order.

    Args:
        actors: they take the items in turn.
        method: its name; called with the item and `arguments`.
        items: read as they are needed, a few for each actor in memory.
        arguments: the same for each call; large ones as references of `ray.put`.

    Raises:
        RaycapError: as an actor raised it.
        RunStopped: actors died again and again.
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
        raise RunStopped(f"a worker of the evaluation gave up ({first_line})") from error


def _answer(pending: deque[tuple[T, Any]]) -> tuple[T, Any]:
    item, answer = pending.popleft()
    return item, ray.get(answer)


_JAVA_BYTES = 2_500_000_000
"""Memory of METEOR's Java program, which every actor has one of."""


class Workers:
    """Runs a method of `Scorer` over chunks, in order; see `open_workers`."""

    def __init__(self, scorer: Scorer | None, actors: list[Any]) -> None:
        self._scorer = scorer
        self._actors = actors

    def run(
        self, method: str, chunks: Iterable[Any], *arguments: Any
    ) -> Iterator[tuple[pa.Table, Any]]:
        """Yield each chunk with its answer.

        Args:
            method: of `Scorer`; called with a chunk and `arguments`.
            chunks: read as they are needed.
            arguments: the same for every chunk, sent to each worker once.

        Raises:
            RaycapError: as the method raised it, or workers died again and again.
        """
        if self._scorer is not None:
            call = getattr(self._scorer, method)
            yield from ((chunk, call(chunk, *arguments)) for chunk in chunks)
            return
        shared = [None if value is None else ray.put(value) for value in arguments]
        yield from spread(self._actors, method, chunks, *shared)


@contextmanager
def open_workers(spec: ScoringSpec, *, num_chunks: int, is_spread: bool) -> Iterator[Workers]:
    """Give workers for the block: this process, or one an idle CPU of the cluster.

    Args:
        spec: what they need to know.
        num_chunks: more workers would have nothing to do.
        is_spread: use Ray actors; Ray must be connected (`raycap.cluster.start.ray_cluster`).
    """
    if not is_spread:
        scorer = Scorer(spec)
        try:
            yield Workers(scorer, [])
        finally:
            scorer.close()
        return
    num_places = _count_places(spec)
    actor: Any = ray.remote(Scorer).options(
        num_cpus=1,
        memory=_JAVA_BYTES if spec.meteor and num_places else None,
        scheduling_strategy="SPREAD",
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )
    actors = [actor.remote(spec) for _ in range(max(1, min(num_chunks, num_places)))]
    try:
        yield Workers(None, actors)
    finally:
        for started in actors:
            ray.kill(started)


def _count_places(spec: ScoringSpec) -> int:
    """Count the workers that the nodes have memory for, and the cluster idle CPUs.

    What waits for a CPU that another job holds would keep all others waiting.
    """
    idle: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    places = [
        min(node.get("CPU", 0.0), node.get("memory", 0.0) // _JAVA_BYTES)
        if spec.meteor
        else node.get("CPU", 0.0)
        for node in nodes
    ]
    return int(min(idle.get("CPU", 0.0), sum(map(int, places))))
