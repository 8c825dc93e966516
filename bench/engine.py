"""The cost of the engine alone, with the `stub` model: 5 ms per batch of 64 images.

images/s, driver     `raycap caption` on folders of 1, 4 and 16 times as many images; a rate is
                     the difference in images between two sizes over the difference in time
first caption        time from the start of the command to the first answered image
memory               peak of the driver, and of all processes together
committer, rows/s    finished rows written into parts on disk, as fast as possible
plan, keys/s         listed keys, from memory, written into the manifest on disk

python -m bench.engine [--images 2000] [--rows 200000] [--keys 1000000] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow as pa

from bench.memory import resident_bytes, write_images
from bench.plan import plan_keys
from raycap import schema
from raycap.captioning.commit import Committer
from raycap.captioning.parts import MANIFEST, read_part
from raycap.captioning.run import caption
from raycap.cluster.start import ray_cluster
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.progress import Progress
from raycap.storage.local import LocalStore

GROWTH = (1, 4, 16)
COMMIT_BAR, PLAN_BAR = 50_000, 100_000
BLOCK_ROWS = 128
"""Rows per call of the committer: the size of a captioner's block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of `raycap caption` with the stub."""

    num_images: int
    wall_s: float
    first_caption_s: float
    """Since the start of the process, imports included."""
    driver_cpu_s: float
    driver_mb: float
    total_mb: float


def caption_here(photos: Path, output: Path) -> dict[str, float]:
    """Caption in this process; return its times in seconds."""
    started = psutil.Process().create_time()
    first: list[float] = []

    def note(_: Progress) -> None:
        if not first:
            first.append(time.time() - started)

    config = validate_config(CaptionConfig, {"model": {"name": "stub", "stub_latency_s": 0.005}})
    with ray_cluster():
        caption(photos, output, config=config, on_progress=note)
        wall_s = time.time() - started
        cpu_s = sum(psutil.Process().cpu_times()[:2])
    return {"first_caption_s": first[0], "wall_s": wall_s, "driver_cpu_s": cpu_s}


def measure(num_images: int, scratch: Path) -> Run:
    """Caption that many images in a separate process, and sample its memory."""
    photos = scratch / f"photos-{num_images}"
    write_images(photos, num_images)
    command = [sys.executable, "-m", "bench.engine", "--caption", str(photos)]
    driver = subprocess.Popen(
        [*command, str(scratch / f"out-{num_images}")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    tree = psutil.Process(driver.pid)
    peak_driver = peak_total = 0
    while driver.poll() is None:
        memory = [resident_bytes(it) for it in [tree, *tree.children(recursive=True)]]
        peak_driver, peak_total = max(peak_driver, memory[0]), max(peak_total, sum(memory))
        time.sleep(0.25)
    assert driver.stdout
    times = json.loads(driver.stdout.read().splitlines()[-1])
    megabytes = {"driver_mb": peak_driver / 1e6, "total_mb": peak_total / 1e6}
    return Run(num_images=num_images, **megabytes, **times)


def commit_rate(num_rows: int, scratch: Path) -> float:
    """Return the rows per second that the committer writes."""
    store = LocalStore(scratch / "commit")
    plan, _ = plan_keys(store, num_rows)
    blocks = [block for number in range(len(plan.parts)) for block in _answered(store, number)]
    with store.lock("lock.json") as lock:
        started = time.perf_counter()
        with Committer(store, lock, plan.versions, lambda *_: None) as committer:
            for block in blocks:
                committer.add(block)
            committer.finish()
        return num_rows / (time.perf_counter() - started)


def _answered(store: LocalStore, number: int) -> list[pa.Table]:
    """Return the ANSWERED rows of a part, in blocks as captioners send them."""
    manifest = read_part(store, MANIFEST, number)
    size = len(manifest)
    filled = {
        schema.PART: [number] * size,
        schema.ROW: list(range(size)),
        schema.NUM_ROWS: [size] * size,
        schema.PARTIAL: [False] * size,
        schema.NUM_BYTES: [100_000] * size,
        schema.PROMPT: [0] * size,
        schema.IS_FIRST: [True] * size,
        schema.STATUS: [schema.STATUS_OK] * size,
        schema.ATTEMPTS: [1] * size,
        schema.CAPTION: ["a large blue star sits in the bottom right corner"] * size,
        schema.NUM_WORDS: [10] * size,
        schema.LOGPROB: [-1.0] * size,
        schema.ALTERNATIVES: [[]] * size,
    }
    columns = [
        manifest[field.name].combine_chunks().cast(field.type)
        if field.name in manifest.column_names
        else pa.array(filled.get(field.name, [None] * size), field.type)
        for field in schema.ANSWERED
    ]
    table = pa.Table.from_arrays(columns, schema=schema.ANSWERED)
    return [table.slice(start, BLOCK_ROWS) for start in range(0, size, BLOCK_ROWS)]


def plan_rate(num_keys: int, scratch: Path) -> float:
    """Return the listed keys per second that are planned."""
    _, seconds = plan_keys(LocalStore(scratch / "plan"), num_keys)
    return num_keys / seconds


def show(runs: list[Run]) -> list[dict[str, float]]:
    """Print the runs; print and return the rates between successive runs."""
    print("images   wall s  first caption s  driver MB  all processes MB")
    for run in runs:
        print(
            f"{run.num_images:>6,}  {run.wall_s:>7.1f}  {run.first_caption_s:>15.1f}"
            f"  {run.driver_mb:>9.0f}  {run.total_mb:>16.0f}"
        )
    rates = []
    print("between        images/s  driver, share of a core  driver us/image")
    for less, more in pairwise(runs):
        images, seconds = more.num_images - less.num_images, more.wall_s - less.wall_s
        cpu_s = more.driver_cpu_s - less.driver_cpu_s
        rate = {
            "images_per_s": images / seconds,
            "driver_share": cpu_s / seconds,
            "driver_us_per_image": 1e6 * cpu_s / images,
        }
        rates.append(rate)
        print(
            f"{less.num_images:>6,}..{more.num_images:<6,} {rate['images_per_s']:>7.0f}"
            f"  {rate['driver_share']:>23.2f}  {rate['driver_us_per_image']:>15.0f}"
        )
    print(f"driver memory at 16 times the images: x {runs[-1].driver_mb / runs[0].driver_mb:.2f}")
    return rates


def main() -> None:
    """Measure everything, and print the tables and their JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--caption", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if given.caption:
        print(json.dumps(caption_here(*given.caption)))
        return
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as name:
        scratch = Path(name)
        committed = commit_rate(given.rows, scratch)
        print(f"committer  {committed:>9,.0f} rows/s (target: {COMMIT_BAR:,})", flush=True)
        planned = plan_rate(given.keys, scratch)
        print(f"plan       {planned:>9,.0f} keys/s (target: {PLAN_BAR:,})", flush=True)
        runs = [measure(times * given.images, scratch) for times in GROWTH]
    rates = show(runs)
    found = {
        "committer_rows_per_s": committed,
        "plan_keys_per_s": planned,
        "runs": [asdict(run) for run in runs],
        "rates": rates,
    }
    print(json.dumps(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
