"""Who scores: this process, or actors of Ray where the set is large."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray

from raycap.evaluation.scoring import Scorer, ScoringSpec
from raycap.evaluation.spreading import RESTARTS, spread

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
        is_spread: by actors of Ray, which must be connected (see `raycap.cluster.ray_cluster`).
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
