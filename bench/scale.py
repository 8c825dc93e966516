"""How captioning scales with the number of actors, on a simulated cluster.

Each node is a process that only pretends to have a GPU. A model with a fixed latency (`stub`, which
sleeps) replaces the work of the GPU, so that the engine is measured: stream, driver and committer.

The rate is measured while all actors are busy: from the moment when one block per actor is done
until one block per actor remains. At the end of a run some actors wait for the last block of
others. That wait is the time of one block however long the run is; `to the end` includes it.

Efficiency is the rate over the rate of one actor times their number. `ideal` is the rate over the
rate that the latency alone would allow. The CPU time per image of the driver, and of the busiest of
several streams, limits how many images per second they can handle.

    python -m bench.scale [--actors 1 2 4 8] [--streams 1] [--latency 4.0] [--json FILE]
"""

import argparse
import json
import logging
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import ray
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster

import raycap
from bench.memory import write_images
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.progress import Progress

BATCH_SIZE = 64
BAR = 0.9
NUM_BATCHES = 24
"""Batches per actor."""
BLOCK_BATCHES = 2
"""Batches per block, which an actor receives at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result for one number of actors."""

    num_actors: int
    images_per_s: float
    efficiency: float
    to_the_end: float
    """Efficiency that includes the wait for the last blocks."""
    ideal: float
    """Rate over the rate that the latency alone would allow."""
    driver_cpu_us: float
    """CPU time of the driver's process per image, in microseconds."""
    stream_cpu_us: float
    """CPU time of the busiest stream, its start included, per image of an equal share."""


def settings(num_actors: int, latency_s: float, num_streams: int) -> CaptionConfig:
    """Return the settings of a run."""
    return validate_config(
        CaptionConfig,
        {
            "model": {"name": "stub", "stub_latency_s": latency_s},
            "engine": {
                "batch_size": BATCH_SIZE,
                "num_actors": str(num_actors),
                "num_streams": num_streams,
                "gpus_per_actor": 1,
                "part_size": 256,
            },
        },
    )


def start_cluster(num_nodes: int) -> Any:
    """Start a head for the driver, and nodes that each declare one GPU."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    reset_ray_address()  # or other programs on this machine would attach to this cluster
    for _ in range(num_nodes):
        cluster.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    return cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The rates of one run."""

    at_work: float
    """Images/s while all actors are busy."""
    to_the_end: float
    """Images/s from the same moment to the end of the run."""
    driver_cpu_s: float
    """CPU time of the driver's process per image."""
    stream_cpu_s: float
    """CPU time of the busiest stream per image of its share; 0 if it is the driver's own."""


class StreamTimes:
    """CPU seconds of each process of a stream, measured while it runs."""

    def __init__(self) -> None:
        self.seconds: dict[int, float] = {}
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StreamTimes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(2.0):  # looking takes this process time, too
            for process in psutil.process_iter(["cmdline"]):
                if "StreamActor" in "".join((process.info["cmdline"] or [""])[:1]):
                    with suppress(psutil.Error):
                        self.seconds[process.pid] = sum(process.cpu_times()[:2])


def run(photos: Path, config: CaptionConfig, num_actors: int) -> Rates:
    """Caption a folder and return the rates."""
    process = psutil.Process()
    marks: list[tuple[int, float, float]] = []

    def mark(progress: Progress) -> None:
        marks.append((progress.num_done, time.perf_counter(), sum(process.cpu_times()[:2])))

    with tempfile.TemporaryDirectory() as output, StreamTimes() as times:
        raycap.caption(photos, Path(output) / "out", config=config, on_progress=mark)
    edge = num_actors * BLOCK_BATCHES * BATCH_SIZE
    start = next(mark for mark in marks if mark[0] >= edge)
    middle = next(mark for mark in marks if mark[0] >= marks[-1][0] - edge)

    def rate(end: tuple[int, float, float]) -> float:
        return (end[0] - start[0]) / (end[1] - start[1])

    return Rates(
        at_work=rate(middle),
        to_the_end=rate(marks[-1]),
        driver_cpu_s=(marks[-1][2] - start[2]) / (marks[-1][0] - start[0]),
        stream_cpu_s=max(times.seconds.values(), default=0.0)
        * (config.engine.num_streams or 1)
        / marks[-1][0],
    )


def measure(num_actors: int, num_streams: int, latency_s: float, scratch: Path) -> Rates:
    """Measure one number of actors on its own cluster."""
    few, many = scratch / f"{num_actors}-few", scratch / f"{num_actors}-many"
    write_images(few, num_actors * BLOCK_BATCHES * BATCH_SIZE)
    write_images(many, num_actors * NUM_BATCHES * BATCH_SIZE)
    cluster = start_cluster(num_actors)
    try:
        raycap.caption(few, scratch / f"{num_actors}-warm", config=settings(num_actors, 0.0, 1))
        return run(many, settings(num_actors, latency_s, num_streams), num_actors)
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Measure all numbers of actors, and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--streams", type=int, default=1, help="processes that schedule")
    parser.add_argument("--latency", type=float, default=4.0, help="seconds per batch of 64")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    rows: list[Row] = []
    alone = (0.0, 0.0)
    print("actors  images/s  efficiency  to the end  ideal  driver us/image  stream us/image")
    with tempfile.TemporaryDirectory() as name:
        for count in given.actors:
            found = measure(count, min(count, given.streams), given.latency, Path(name))
            alone = alone if rows else (found.at_work / count, found.to_the_end / count)
            row = Row(
                num_actors=count,
                images_per_s=found.at_work,
                efficiency=found.at_work / (alone[0] * count),
                to_the_end=found.to_the_end / (alone[1] * count),
                ideal=found.at_work * given.latency / (BATCH_SIZE * count),
                driver_cpu_us=1e6 * found.driver_cpu_s,
                stream_cpu_us=1e6 * found.stream_cpu_s,
            )
            rows.append(row)
            print(
                f"{row.num_actors:>6}  {row.images_per_s:>8.1f}  {row.efficiency:>10.3f}"
                f"  {row.to_the_end:>10.3f}  {row.ideal:>5.3f}  {row.driver_cpu_us:>15.1f}"
                f"  {row.stream_cpu_us:>15.1f}",
                flush=True,
            )
    print(f"target: efficiency {BAR}")
    print(json.dumps([asdict(row) for row in rows]))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
