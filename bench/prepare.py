"""`raycap prepare` at two sizes: images/s, and memory that must not grow with their number.

Prepares generated JPEGs with five captions each through the installed command; 1 % of the files
are broken and 10 % are copies of others, so that images are rejected and move between splits.
Samples the resident memory of the driver and of every process that it started.

    python -m bench.prepare [--images 2000 20000] [--set embed.max_side_px=64]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.memory import resident_bytes, write_images

RAYCAP = str(Path(sys.executable).parent / "raycap")
NUM_CAPTIONS = 5
EVERY_S = 0.2
WORDS = ("a", "the", "small", "red", "dog", "tree", "house", "near", "under", "two", "boats", "sea")


def write_source(folder: Path, num_images: int) -> None:
    """Write images, every tenth a copy of another, beside a `metadata.jsonl`."""
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


def run(source: Path, output: Path, settings: list[str]) -> dict[str, float]:
    """Prepare a folder; return images/s and the peaks of the driver and of all processes."""
    command = [RAYCAP, "prepare", str(source), str(output)]
    for setting in settings:
        command += ["--set", setting]
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


def main() -> None:
    """Run at each size and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--set", action="append", default=[], help="a setting, as raycap has it")
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in arguments.images:
            source = Path(name) / f"photos-{count}"
            write_source(source, count)
            rows.append(run(source, Path(name) / f"out-{count}", arguments.set))
    print("  ".join(f"{key:>12}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>12,.1f}" for value in row.values()))
    growth = {name: rows[-1][name] / rows[0][name] for name in ("driver_mb", "total_mb")}
    print(f"memory at {rows[-1]['images']:,} over {rows[0]['images']:,} images: {growth}")
    print(json.dumps({"runs": rows, "growth": growth}))


if __name__ == "__main__":
    main()
