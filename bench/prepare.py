"""`raycap prepare` at two sizes: images/s, and memory, which must not grow with their number.

Prepares generated JPEGs with five captions each, with the installed command. 1 % of the files are
damaged and 10 % are copies of others, so that images are rejected and move between splits. Samples
the resident memory of the driver and of every process that it started. Parts are small, so that
both sizes keep all workers busy. A second table is for the driver's planning alone, of many more
images that need not exist, with `engine.memory_bytes` at PLAN_BYTES.

    python -m bench.prepare [--images 2000 20000] [--planned 200000 1000000]
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pyarrow as pa

from bench.memory import resident_bytes, write_images
from raycap import schema
from raycap.config import PrepareConfig
from raycap.config.loading import validate_config
from raycap.datasets.planning import write_plan
from raycap.storage.local import LocalStore

RAYCAP = str(Path(sys.executable).parent / "raycap")
NUM_CAPTIONS = 5
EVERY_S = 0.2
PART_SIZE = 256
PLAN_BYTES = 150_000_000
PAGE_ROWS = 8_192
WORDS = ("a", "the", "small", "red", "dog", "tree", "house", "near", "under", "two", "boats", "sea")


def write_source(folder: Path, num_images: int) -> None:
    """Write images, every tenth a copy of another, and a `metadata.jsonl`."""
    write_images(folder, num_images)
    rng = random.Random(0)
    paths = sorted(folder.rglob("*.jpg"))
    for path, original in zip(paths[5::10], rng.sample(paths, len(paths[5::10])), strict=True):
        path.write_bytes(original.read_bytes())
    with (folder / "metadata.jsonl").open("w") as file:
        for number, path in enumerate(paths):
            said = [" ".join(rng.choices(WORDS, k=10)) + f" {number}" for _ in range(NUM_CAPTIONS)]
            name = path.relative_to(folder).as_posix()
            file.write(json.dumps({"file_name": name, "captions": said}) + "\n")


def run(source: Path, output: Path) -> dict[str, float]:
    """Prepare a folder; return images/s, and peak memory of the driver and of all processes."""
    setting = f"engine.part_size={PART_SIZE}"
    command = [RAYCAP, "prepare", str(source), str(output), "--set", setting]
    started = time.monotonic()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tree = psutil.Process(driver.pid)
    peak_driver = peak_total = 0
    while driver.poll() is None:
        memory = [resident_bytes(process) for process in (tree, *tree.children(recursive=True))]
        peak_driver, peak_total = max(peak_driver, memory[0]), max(peak_total, sum(memory))
        time.sleep(EVERY_S)
    wall_s = time.monotonic() - started
    if driver.returncode:
        assert driver.stderr
        raise SystemExit(driver.stderr.read().decode())
    record = json.loads((output / "dataset.json").read_text())
    return {
        "images": record["num_source_images"],
        "rejected": sum(record["rejected_images"].values()),
        "moved": record["duplicates"]["num_moved"],
        "wall_s": wall_s,
        "images_per_s": record["num_source_images"] / wall_s,
        "driver_mb": peak_driver / 1e6,
        "total_mb": peak_total / 1e6,
    }


def annotations(num_images: int) -> Iterator[pa.Table]:
    """Yield ANNOTATIONS that need sorting: all first captions before all second ones."""
    for start in range(0, num_images * NUM_CAPTIONS, PAGE_ROWS):
        numbers = range(start, min(start + PAGE_ROWS, num_images * NUM_CAPTIONS))
        rows = [
            {
                **dict.fromkeys(schema.ANNOTATIONS.names),
                schema.IMAGE_ID: f"{number % num_images:09d}.jpg",
                schema.URI: f"s3://bucket/photos/{number % num_images:09d}.jpg",
                schema.CAPTION: f"a small red dog near the house under two trees {number}",
            }
            for number in numbers
        ]
        yield pa.Table.from_pylist(rows, schema=schema.ANNOTATIONS)


def plan(num_images: int) -> dict[str, float]:
    """Plan in this process; return the seconds and the peak memory."""
    config = validate_config(PrepareConfig, {"engine": {"memory_bytes": PLAN_BYTES}})
    mark = {"source": "generated", "format": "table"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        found = write_plan(LocalStore(Path(name)), annotations(num_images), config, mark)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "planned": found.num_images,
        "captions": found.num_captions,
        "wall_s": time.monotonic() - started,
        "driver_mb": peak / 1e6,
    }


def plan_alone(num_images: int) -> dict[str, float]:
    """Plan in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(plan, num_images).result()


def show(rows: list[dict[str, float]]) -> None:
    """Print a table, and the growth of memory from its first row to its last."""
    print("  ".join(f"{key:>12}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>12,.1f}" for value in row.values()))
    for name in rows[0].keys() & {"driver_mb", "total_mb"}:
        print(f"{name}, last over first: {rows[-1][name] / rows[0][name]:.3f}")
    print(json.dumps(rows))


def main() -> None:
    """Run at each size and print the tables and their JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--planned", type=int, nargs="+", default=[200_000, 1_000_000])
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in arguments.images:
            source = Path(name) / f"photos-{count}"
            write_source(source, count)
            rows.append(run(source, Path(name) / f"out-{count}"))
    show(rows)
    show([plan_alone(count) for count in arguments.planned])


if __name__ == "__main__":
    main()
