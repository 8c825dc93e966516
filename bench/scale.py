"""How captioning scales with captioners, streams and images, on a simulated cluster.

A few raylets on this machine pretend to be nodes with many GPUs. A model that only sleeps (`stub`)
replaces the work of the GPUs, and the images are tiny, so that scheduling is measured: streams,
driver and committers. The command runs in a process of its own, and another one looks on.

costs        CPU microseconds per image of the driver and of the busiest stream, with a model that
             takes no time
efficiency   rate over that of one captioner times their number: while all are at work (from one
             block per captioner done until one block per captioner left), and to the end of the
             run; a batch of 64 takes 4 s
tail         share of the captioners' time that is idle from the first block to the end, with 200
             blocks per captioner
memory       peak of the driver's memory at 1, 4 and 16 times the images
elastic      seconds from the moment when a node joins until its captioner's first block

    python -m bench.scale [--only costs efficiency tail memory elastic] [--captioners 8 16 64]
                          [--json FILE]

Keys in millions: `bench.plan`.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
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
BLOCK_BATCHES = 2
"""Batches per block, which a captioner receives at once."""
BLOCK_ROWS = BLOCK_BATCHES * BATCH_SIZE
NODE_GPUS = 16
BARS = {
    "driver": 5.0,
    "stream": 40.0,
    "at work": 0.95,
    "to the end": 0.9,
    "idle": 0.05,
    "elastic": 30.0,
}


def settings(num_captioners: str, latency_s: float, **engine: Any) -> dict[str, Any]:
    """Return the settings of a run, as in a file."""
    sizes = {"batch_size": BATCH_SIZE, "gpus_per_actor": 1, "part_size": 256}
    return {
        "model": {"name": "stub", "stub_latency_s": latency_s},
        "engine": {**sizes, "num_actors": num_captioners, **engine},
    }


def start_cluster(num_gpus: int) -> Any:
    """Start a head for the driver, and nodes of up to 16 pretended GPUs."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
    reset_ray_address()  # or other programs on this machine would attach to this cluster
    for start in range(0, num_gpus, NODE_GPUS):
        add_node(cluster, min(NODE_GPUS, num_gpus - start))
    return cluster


def add_node(cluster: Any, num_gpus: int) -> None:
    """Add a node, with CPUs for its captioners and two load tasks."""
    cluster.add_node(num_cpus=num_gpus + 2, num_gpus=num_gpus, object_store_memory=500_000_000)


def write_links(folder: Path, count: int) -> None:
    """Write that many image files of a few hundred bytes: links to a hundred files."""
    originals = folder.parent / "originals"
    if not originals.exists():
        write_images(originals, 99)  # of every hundred files, the last one is damaged
    files = sorted(path for path in originals.rglob("*.jpg"))
    for number in range(count):
        path = folder / f"{number // 1000:04d}" / f"{number:08d}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
        os.link(files[number % len(files)], path)


def caption_here(address: str, photos: str, output: str, config: dict[str, Any]) -> None:
    """Caption in this process, and print its moments: images done, seconds, CPU seconds."""
    marks: list[tuple[int, float, float]] = []

    def mark(progress: Progress) -> None:
        marks.append((progress.num_done, time.time(), time.process_time()))
        print(json.dumps(marks[-1]), flush=True)

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    raycap.caption(photos, output, config=validate_config(CaptionConfig, config), on_progress=mark)
    print(json.dumps((marks[-1][0], time.time(), time.process_time())), flush=True)


class Watched:
    """A run of `caption` in another process: its moments, and what its processes take."""

    def __init__(self, cluster: Any, photos: Path, output: Path, config: dict[str, Any]) -> None:
        """Prepare to run."""
        self.marks: list[tuple[int, float, float]] = []
        self.names: dict[int, str] = {}
        self.looks: list[tuple[int, dict[int, float]]] = []
        """Images done, and CPU seconds of each process of an actor or task."""
        self.peak_mb = 0.0
        self._arguments = [cluster.address, str(photos), str(output), json.dumps(config)]

    def run(self, on_mark: Callable[[int], None] = lambda _: None) -> "Watched":
        """Run, call `on_mark` with the number of images done, and look on."""
        command = [sys.executable, "-m", "bench.scale", "--caption", *self._arguments]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert driver.stdout
        looked_at = 0.0
        for line in driver.stdout:
            if not line.startswith("["):  # Ray's own
                continue
            self.marks.append(tuple(json.loads(line)))
            on_mark(self.marks[-1][0])
            if time.monotonic() - looked_at > 2:  # looking takes a core some time
                self._look(driver.pid)
                looked_at = time.monotonic()
        if driver.wait():
            raise SystemExit("the run failed")
        return self

    def _look(self, driver: int) -> None:
        with suppress(psutil.Error):
            self.peak_mb = max(self.peak_mb, psutil.Process(driver).memory_info().rss / 1e6)
        seconds: dict[int, float] = {}
        for process in psutil.process_iter(["cmdline"]):
            name = "".join((process.info["cmdline"] or [""])[:1])
            if name.startswith("ray::"):
                with suppress(psutil.Error):
                    seconds[process.pid] = sum(process.cpu_times()[:2])
                    self.names[process.pid] = name
        self.looks.append((self.marks[-1][0], seconds))

    def first(self, num_images: int) -> tuple[int, float, float]:
        """Return the moment when at least that many images were done."""
        return next(mark for mark in self.marks if mark[0] >= num_images)

    def rate(self, start: int, end: int) -> float:
        """Return the images per second between two numbers of images done."""
        first, last = self.first(start), self.first(end)
        return (last[0] - first[0]) / (last[1] - first[1])


def costs(scratch: Path, num_captioners: int, num_streams: int) -> dict[str, float]:
    """Measure the CPU time per image of the processes that do not grow with the captioners."""
    num_images = 100_000
    write_links(scratch / "costs", num_images)
    cluster = start_cluster(num_captioners)
    try:
        # The sizes that raycap chooses on a GPU by itself.
        sizes = {"batch_size": 128, "part_size": 1024}
        config = settings(str(num_captioners), 0.0, num_streams=num_streams, **sizes)
        seen = Watched(cluster, scratch / "costs", scratch / "costs-out", config).run()
    finally:
        cluster.shutdown()
    # Without the start: between a tenth of the images and the end.
    start, end = seen.first(num_images // 10), seen.marks[-1]
    num_done, before = next(look for look in seen.looks if look[0] >= start[0])
    last_done, after = seen.looks[-1]
    spent = {pid: after[pid] - before[pid] for pid in before.keys() & after.keys()}
    streams = [seconds for pid, seconds in spent.items() if "Stream" in seen.names[pid]]
    found = {
        "captioners": num_captioners,
        "streams": num_streams,
        "images/s": seen.rate(start[0], end[0]),
        "driver us": 1e6 * (end[2] - start[2]) / (end[0] - start[0]),
        "stream us": 1e6 * max(streams, default=0.0) * num_streams / (last_done - num_done),
    }
    print(
        f"{num_captioners} captioners, {num_streams} streams: {found['images/s']:.0f} images/s; "
        f"driver {found['driver us']:.1f} us/image (target {BARS['driver']:g}), busiest stream "
        f"{found['stream us']:.1f} us/image of its own (target {BARS['stream']:g})",
        flush=True,
    )
    return found


def efficiency(scratch: Path, counts: list[int]) -> list[dict[str, float]]:
    """Measure the efficiency of several numbers of captioners."""
    latency_s, rows = 4.0, []
    ideal = BATCH_SIZE / latency_s
    print("captioners  streams  images/s  at work  to the end  (share of the latency's own rate)")
    for count in counts:
        edge = count * BLOCK_ROWS
        photos = scratch / f"efficiency-{count}"
        write_links(photos, 12 * edge)
        cluster = start_cluster(count)
        try:
            config = settings(str(count), latency_s, num_streams=math.ceil(count / 16))
            seen = Watched(cluster, photos, scratch / f"out-{count}", config).run()
        finally:
            cluster.shutdown()
        total = seen.marks[-1][0]
        at_work, whole = seen.rate(edge, total - edge), seen.rate(edge, total)
        row = {"captioners": count, "images/s": at_work, "at work": at_work / (ideal * count)}
        row["to the end"] = whole / (ideal * count)
        rows.append(row)
        print(
            f"{count:>10}  {math.ceil(count / 16):>7}  {at_work:>8.1f}  {row['at work']:>7.3f}  "
            f"{row['to the end']:>10.3f}",
            flush=True,
        )
    print(f"targets: {BARS['at work']} and {BARS['to the end']}")
    return rows


def tail(scratch: Path) -> dict[str, float]:
    """Measure the idle time of captioners in a run of 200 blocks each."""
    count, streams, latency_s, batch = 16, 4, 0.25, 8
    block = BLOCK_BATCHES * batch
    total = 200 * block * count
    write_links(scratch / "tail", total)
    cluster = start_cluster(count)
    try:
        config = settings(
            str(count), latency_s, num_streams=streams, batch_size=batch, part_size=4 * block
        )
        seen = Watched(cluster, scratch / "tail", scratch / "tail-out", config).run()
    finally:
        cluster.shutdown()
    edge = count * block
    at_work, whole = seen.rate(edge, total - edge), seen.rate(edge, total)
    found = {"captioners": count, "blocks": 200, "idle": 1 - whole / at_work}
    print(
        f"tail: {found['idle']:.3f} of the captioners' time is idle at the end (target "
        f"{BARS['idle']}); {at_work:.0f} images/s while all are at work",
        flush=True,
    )
    return found


def memory(scratch: Path, least: int) -> list[dict[str, float]]:
    """Measure the driver's memory at three sizes."""
    rows = []
    for count in (least, 4 * least, 16 * least):
        write_links(scratch / f"memory-{count}", count)
        cluster = start_cluster(4)
        try:
            config = settings("4", 0.0, num_streams=2)
            photos = scratch / f"memory-{count}"
            seen = Watched(cluster, photos, scratch / f"memory-{count}-out", config).run()
        finally:
            cluster.shutdown()
        rows.append({"images": count, "driver MB": seen.peak_mb})
        print(f"memory: {count:,} images, driver {seen.peak_mb:.0f} MB", flush=True)
    return rows


def elastic(scratch: Path) -> dict[str, float]:
    """Measure how soon a node that joins midway is at work."""
    write_links(scratch / "elastic", 8_000)
    cluster = start_cluster(1)
    joined: list[float] = []
    rates: list[tuple[float, int]] = []

    def on_mark(num_done: int) -> None:
        rates.append((time.time(), num_done))
        if not joined and num_done > 4 * BLOCK_ROWS:
            add_node(cluster, 1)
            joined.append(time.time())

    try:
        seen = Watched(cluster, scratch / "elastic", scratch / "elastic-out", settings("1..2", 1.0))
        seen.run(on_mark)
    finally:
        cluster.shutdown()
    seconds = _risen_at(rates, joined[0]) - joined[0]
    print(
        f"elastic: a node is at work {seconds:.0f} s after it joined (target {BARS['elastic']:g})",
        flush=True,
    )
    return {"seconds": seconds}


def _risen_at(moments: list[tuple[float, int]], joined_at: float) -> float:
    """Return when blocks began to come half as fast again as before."""
    before = [(at, done) for at, done in moments if at <= joined_at]
    after = [(at, done) for at, done in moments if at > joined_at]
    (start, first), (end, last) = before[0], before[-1]
    alone = (last - first) / (end - start)
    for (at, done), (between, _), (until, more) in zip(after, after[1:], after[2:], strict=False):
        if (more - done) / (until - at) >= 1.5 * alone:
            return between
    raise SystemExit("the captioner of the added node never worked")


def main() -> None:
    """Measure what was asked for."""
    if sys.argv[1:2] == ["--caption"]:
        address, photos, output, config = sys.argv[2:]
        caption_here(address, photos, output, json.loads(config))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["costs", "efficiency", "tail", "memory", "elastic"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--captioners", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--images", type=int, default=10_000, help="least number for memory")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        most = max(given.captioners)
        jobs: dict[str, Callable[[], Any]] = {
            "costs": lambda: costs(scratch, most, math.ceil(most / 16)),
            "efficiency": lambda: efficiency(scratch, given.captioners),
            "tail": lambda: tail(scratch),
            "memory": lambda: memory(scratch, given.images),
            "elastic": lambda: elastic(scratch),
        }
        for job in given.only:
            found[job] = jobs[job]()
            if given.json:
                given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
