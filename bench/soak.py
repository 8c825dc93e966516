"""Endurance: many small images, 1 % of them damaged, and a random `kill -9` about every minute.

The kills hit the driver (then the same command runs again), captioners, load tasks and Ray's own
node process. At the end every image must have exactly one row, with the same caption for the same
picture everywhere, and no process, shared memory or temporary file may be left. Memory is sampled
throughout; the result has its median in each quarter of the time.

    python -m bench.soak [--images 500000] [--kill-every 60] [--latency 0] [--json FILE]
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as pads

from bench.memory import RAYCAP, write_images

NUM_PICTURES = 1000
VICTIMS = ("driver", "CaptionActor", "load_parts", "raylet")
SAMPLE_S = 5.0
LEFT_WAIT_S = 60.0


def write_set(folder: Path, count: int) -> int:
    """Write the images as links to a thousand pictures; return how many are damaged."""
    pictures = folder.parent / "pictures"
    write_images(pictures, NUM_PICTURES)  # every hundredth is truncated
    files = [path for path in sorted(pictures.rglob("*")) if path.is_file()]
    for number in range(count):
        shard = folder / f"{number // 10_000:04d}"
        if number % 10_000 == 0:
            shard.mkdir(parents=True)
        os.link(files[number % NUM_PICTURES], shard / f"{number:08d}.jpg")
    return sum(number % 100 == 99 for number in range(count))


def ours(home: Path) -> Iterator[psutil.Process]:
    """Yield the running processes that a command with this home folder has started."""
    for process in psutil.process_iter(["environ", "cmdline", "status"]):
        environ = process.info["environ"] or {}
        if environ.get("HOME") == str(home) and process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process


def memory_bytes(home: Path) -> int:
    """Return the sum of the memory of our processes, without what they share."""
    total = 0
    for process in ours(home):
        try:
            total += process.memory_info().rss - process.memory_info().shared
        except psutil.Error:
            continue  # it has ended in the meantime
    return total


def kill(victim: str, driver: "subprocess.Popen[bytes]", home: Path) -> bool:
    """Kill a process of a kind; return whether there was one."""
    if victim == "driver":
        driver.kill()
        return True
    found = [p for p in ours(home) if victim in " ".join(p.info["cmdline"] or [])]
    chosen = [p for p in found if victim == "raylet" or p.info["cmdline"][0].startswith("ray::")]
    if not chosen:
        return False
    random.choice(chosen).send_signal(signal.SIGKILL)
    return True


def soak(
    photos: Path, output: Path, home: Path, every_s: float, latency_s: float
) -> dict[str, Any]:
    """Caption to the end while processes are killed; return times, kills and memory."""
    environment = {**os.environ, "HOME": str(home), "RAY_ADDRESS": "local"}
    settings = ["--model", "stub", "--set", f"model.stub_latency_s={latency_s}"]
    command = [RAYCAP, "caption", str(photos), str(output), *settings]
    log = (home / "log.txt").open("wb")
    killed: Counter[str] = Counter()
    samples: list[int] = []
    codes: list[int] = []
    started = time.monotonic()
    while not codes or codes[-1] not in (0, 3):
        driver = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        next_kill = time.monotonic() + every_s * random.uniform(0.5, 1.5)
        while driver.poll() is None:
            time.sleep(SAMPLE_S)
            samples.append(memory_bytes(home))
            victim = random.choice(VICTIMS)
            if time.monotonic() >= next_kill and kill(victim, driver, home):
                killed[victim] += 1
                print(f"{time.monotonic() - started:>7.0f} s  killed {victim}", flush=True)
                next_kill = time.monotonic() + every_s * random.uniform(0.5, 1.5)
        codes.append(driver.returncode)
    quarter = max(1, len(samples) // 4)
    return {
        "wall_s": round(time.monotonic() - started),
        "killed": dict(killed),
        "exit_codes": codes,
        "memory_mb_by_quarter": [
            round(statistics.median(samples[start : start + quarter]) / 1e6)
            for start in range(0, quarter * 4, quarter)
            if samples[start : start + quarter]
        ],
    }


def check_rows(output: Path, num_images: int, num_broken: int) -> dict[str, Any]:
    """Compare the rows with the expected ones."""
    table = pads.dataset(output / "captions").to_table(["image_id", "caption", "error_code"])
    captions: dict[int, set[str | None]] = {}
    for image_id, caption in zip(
        table["image_id"].to_pylist(), table["caption"].to_pylist(), strict=True
    ):
        picture = int(Path(image_id).stem) % NUM_PICTURES
        captions.setdefault(picture, set()).add(caption)
    return {
        "rows": len(table),
        "images_with_a_row": len(set(table["image_id"].to_pylist())),
        "failed": len(table) - table["error_code"].null_count,
        "as_expected": len(table) == num_images
        and len(table) - table["error_code"].null_count == num_broken
        and all(len(found) == 1 for found in captions.values()),
    }


def find_left(output: Path, home: Path, shared_before: set[str]) -> dict[str, list[str]]:
    """Return what should be gone, after waiting for it to end."""
    deadline = time.monotonic() + LEFT_WAIT_S
    while (left := list(ours(home))) and time.monotonic() < deadline:
        time.sleep(1)
    return {
        "processes": [" ".join(process.cmdline())[:80] for process in left],
        "shared_memory": sorted(set(os.listdir("/dev/shm")) - shared_before),
        "temporary_files": [str(path) for path in output.rglob("*raycap-tmp")],
    }


def main() -> None:
    """Run, check, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500_000)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds, on average")
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds per batch; prolongs the run"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    shared_before = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory() as name:
        photos, output, home = (Path(name) / part for part in ("photos", "out", "home"))
        home.mkdir()
        num_broken = write_set(photos, given.images)
        found = soak(photos, output, home, given.kill_every, given.latency)
        verified = subprocess.run([RAYCAP, "verify", str(output)], check=False).returncode
        found |= {"images": given.images, "broken": num_broken, "verify": verified}
        found |= check_rows(output, given.images, num_broken)
        found["left"] = find_left(output, home, shared_before)
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    if verified or not found["as_expected"] or any(found["left"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
