"""Memory of a run at two sizes: it must not grow with the number of images.

Captions generated JPEGs, 1 % of them damaged, with the `stub` model and the installed command.
Samples the resident memory of the driver and of every process that it started.

    python -m bench.memory [--images 2000 20000]
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

RAYCAP = str(Path(sys.executable).parent / "raycap")


def write_images(folder: Path, count: int) -> None:
    """Write small JPEGs in folders of 1,000; every hundredth file is truncated to half."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:04d}" / f"{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = io.BytesIO()
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((128, 96)).save(sink, "JPEG", quality=85)
        data = sink.getvalue()
        path.write_bytes(data[: len(data) // 2] if number % 100 == 99 else data)


def resident_bytes(process: psutil.Process) -> int:
    """Return the proportional set size of a process; 0 if it has ended."""
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(memory.pss)


def run(photos: Path, output: Path) -> dict[str, float]:
    """Caption a folder; return images/s, and peak memory of the driver and of all processes."""
    command = [RAYCAP, "caption", str(photos), str(output), "--model", "stub"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tree = psutil.Process(driver.pid)
    peak_driver = peak_total = 0
    while driver.poll() is None:
        processes = [tree, *tree.children(recursive=True)]
        memory = [resident_bytes(process) for process in processes]
        peak_driver = max(peak_driver, tree.memory_info().rss if driver.poll() is None else 0)
        peak_total = max(peak_total, sum(memory))
        time.sleep(0.25)
    if driver.returncode:
        assert driver.stderr
        raise SystemExit(driver.stderr.read().decode())
    summary = json.loads((output / "summary.json").read_text())
    return {
        "images": summary["num_images"],
        "failed": summary["num_failed"],
        "images_per_s": summary["images_per_s"],
        "wall_s": summary["wall_s"],
        "driver_mb": peak_driver / 1e6,
        "total_mb": peak_total / 1e6,
    }


def main() -> None:
    """Run at each size and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    arguments = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in arguments.images:
            photos = Path(name) / f"photos-{count}"
            write_images(photos, count)
            rows.append(run(photos, Path(name) / f"out-{count}"))
    print("  ".join(f"{key:>12}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>12,.1f}" for value in row.values()))
    growth = rows[-1]["driver_mb"] / rows[0]["driver_mb"]
    print(f"driver, {rows[-1]['images']:,} images over {rows[0]['images']:,}: x {growth:.3f}")
    print(json.dumps({"runs": rows, "driver_growth": growth}))


if __name__ == "__main__":
    main()
