"""Fine-tuning BLIP-base at 384 pixels: seconds per step, and memory of the worker.

Runs a few steps of two images with the real architecture and random weights, for each tuning
method, with and without gradient checkpointing. Each runs `raycap train` in a separate process.

    python -m bench.finetune [--steps 3] [--batch 2]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.samples import write_blip_base
from bench.train import make_dataset, write_images

WAYS = {
    "full": [],
    "full, checkpointed": ["blip.gradient_checkpointing=true"],
    "frozen vision": ["blip.method=frozen-vision"],
    "LoRA": ["blip.method=lora"],
    "LoRA, checkpointed": ["blip.method=lora", "blip.gradient_checkpointing=true"],
}
"""Settings of each method that differ from the defaults."""

_NUM_VALIDATION = 4  # as many as `make_dataset` uses


def run(folder: Path, name: str, settings: list[str], batch: int) -> dict[str, Any]:
    """Train one epoch, and record the peak memory of the command's largest process."""
    output = folder / name.replace(" ", "-").replace(",", "")
    chosen = [
        *settings,
        f"train.batch_size={batch}",
        "train.num_epochs=1",
        "validation.num_images=2",
        "generation.num_beams=1",
    ]
    command = [sys.executable, "-c", "from raycap.console import main; main()", "train"]
    command += [str(folder / "dataset"), str(output), "--init", str(folder / "model")]
    command += [word for setting in chosen for word in ("--set", setting)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    largest = 0
    while process.poll() is None:
        largest = max(largest, _largest_process(process.pid))
        time.sleep(0.2)
    if process.returncode:
        assert process.stderr
        raise SystemExit(process.stderr.read().decode())
    training = json.loads((output / "training.json").read_text())
    last = training["last"]
    return {
        "way": name,
        "steps": training["num_steps"],
        "s_per_step": last["train_s"] / training["num_steps"],
        "worker_mb": largest / 1e6,
        "loss": last["train_loss"],
    }


def _largest_process(root: int) -> int:
    """Return the resident bytes of the largest descendant of a process."""
    sizes = [0]
    for child in psutil.Process(root).children(recursive=True):
        try:
            sizes.append(child.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(sizes)


def main() -> None:
    """Run each method and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    rows = []
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as name:
        folder = Path(name)
        write_blip_base(folder / "model")
        images = write_images(folder / "images", given.steps * given.batch + _NUM_VALIDATION)
        make_dataset(images, folder)
        print(f"{'':<20}{'steps':>6}{'s/step':>10}{'worker MB':>11}{'loss':>8}")
        for way, settings in WAYS.items():
            row = run(folder, way, settings, given.batch)
            rows.append(row)
            print(
                f"{way:<20}{row['steps']:>6}{row['s_per_step']:>10.1f}{row['worker_mb']:>11,.0f}"
                f"{row['loss']:>8.3f}",
                flush=True,
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
