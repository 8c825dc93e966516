"""The number of concurrent trials on a cluster, and the cores of each."""

from typing import Any

import psutil
import pytest
import ray

from raycap.config import SearchConfig, TrainEngineConfig
from raycap.experiments.tuning.resources import fit_trials, share_threads
from raycap.training.resources import Resources


def fitting(
    cpus: float, gpus: float = 0.0, *, num_workers: int = 1, most: int | None = None, **takes: float
) -> int:
    resources = Resources(
        gpus_per_worker=float(takes.get("gpus_per_worker", 0.0)),
        cpus_per_worker=takes.get("cpus_per_worker", 1.0),
        torch_threads=1,
    )
    return fit_trials(
        {"CPU": float(cpus), "GPU": float(gpus)},
        TrainEngineConfig(num_workers=num_workers),
        resources,
        SearchConfig(max_concurrent=most),
    )


@pytest.mark.parametrize(
    ("cpus", "num_workers", "num_trials"),
    # A trial takes 1.3 CPUs and its workers.
    [(1, 1, 1), (2, 1, 1), (4, 1, 1), (4.6, 1, 2), (16, 1, 6), (16, 4, 3), (16, 64, 1)],
)
def test_trials_share_the_cpus(cpus: float, num_workers: int, num_trials: int) -> None:
    assert fitting(cpus, num_workers=num_workers) == num_trials


def test_rounding_does_not_lose_a_trial() -> None:
    assert fitting(2.1, cpus_per_worker=0.1, num_workers=1) == 1
    assert fitting(2.8, cpus_per_worker=0.1, num_workers=1) == 2
    assert fitting(1000, 3, gpus_per_worker=0.1) == 30


@pytest.mark.parametrize(
    ("gpus", "gpus_per_worker", "num_workers", "num_trials"),
    [
        (1, 1.0, 1, 1),
        (8, 1.0, 1, 8),
        (8, 1.0, 2, 4),
        (8, 1.0, 3, 2),
        (4, 2.0, 1, 2),
        (1, 0.25, 1, 4),
        (2, 0.25, 1, 8),
        (2, 0.25, 2, 4),
        (3, 0.4, 1, 6),  # two a GPU, not 3 / 0.4: a worker is on one GPU
        (1, 1.0, 4, 1),  # it waits for the cluster to grow
    ],
)
def test_trials_share_the_gpus(
    gpus: float, gpus_per_worker: float, num_workers: int, num_trials: int
) -> None:
    told = fitting(1000, gpus, gpus_per_worker=gpus_per_worker, num_workers=num_workers)
    assert told == num_trials


def test_gpus_count_only_if_workers_use_them() -> None:
    assert fitting(16, 1, gpus_per_worker=0.0) == 6
    assert fitting(4, 8, gpus_per_worker=1.0) == 1


def test_a_configured_number_is_used() -> None:
    assert fitting(1, most=7) == 7
    assert fitting(1000, most=2) == 2


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fake a cluster with some nodes and cores per node."""

    def have(num_nodes: int, num_cores: int | None) -> None:
        nodes = [{"Alive": number < num_nodes} for number in range(num_nodes + 1)]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(psutil, "cpu_count", lambda **_: num_cores)

    return have


@pytest.mark.parametrize(
    ("num_nodes", "num_trials", "num_workers", "threads"),
    [(1, 1, 1, 16), (1, 4, 1, 4), (1, 4, 2, 2), (4, 4, 1, 16), (4, 5, 1, 8), (1, 99, 1, 1)],
)
def test_workers_on_a_machine_share_its_cores(
    machines: Any, num_nodes: int, num_trials: int, num_workers: int, threads: int
) -> None:
    machines(num_nodes, 16)
    engine = share_threads(TrainEngineConfig(num_workers=num_workers), num_trials)
    assert engine.torch_threads == threads
    assert engine.num_workers == num_workers


def test_configured_threads_are_kept() -> None:
    engine = TrainEngineConfig(torch_threads=3)
    assert share_threads(engine, 8) == engine
