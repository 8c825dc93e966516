"""Who scores: this process, or actors of Ray where the set is large."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray

from raycap.cluster import ray_cluster
from raycap.evaluation.scoring import Scorer, ScoringSpec
from raycap.evaluation.spreading import RESTARTS, spread

_JAVA_BYTES = 2_500_000_000
"""Memory of METEOR's Java program, which every actor has one of."""


class Workers:
    """Runs a method of `Scorer` over chunks, in order; see `open_workers`."""

    def __init__(self, scorer: Scorer | None, actors: list[Any]) -> None:
        self._scorer = scorer
        self._actors = actors

    @property
    def are_spread(self) -> bool:
        """Whether they are actors: Ray is connected."""
        return self._scorer is None

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
def open_workers(
    spec: ScoringSpec, *, num_chunks: int, is_spread: bool, debug: bool
) -> Iterator[Workers]:
    """Give workers for the block: one an idle CPU of the cluster, or this process."""
    if not is_spread:
        scorer = Scorer(spec)
        try:
            yield Workers(scorer, [])
        finally:
            scorer.close()
        return
    with ray_cluster(debug=debug):
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        actor: Any = ray.remote(Scorer).options(
            num_cpus=1,
            memory=_JAVA_BYTES if spec.meteor else None,
            scheduling_strategy="SPREAD",
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )
        count = max(1, min(num_chunks, int(_places(resources, spec))))
        actors = [actor.remote(spec) for _ in range(count)]
        try:
            yield Workers(None, actors)
        finally:
            for started in actors:
                ray.kill(started)


def _places(resources: dict[str, float], spec: ScoringSpec) -> float:
    """Count the workers that a cluster has room for."""
    cpus = resources.get("CPU", 1.0)
    if not spec.meteor:
        return cpus
    return min(cpus, resources.get("memory", 0.0) // _JAVA_BYTES)
