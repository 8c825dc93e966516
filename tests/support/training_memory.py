"""Train on few images and on many, on a local Ray of its own, and print the peaks of memory.

A program, since workers that other tests have used keep memory: `python -m
tests.support.training_memory FOLDER` prints a JSON object for each of two runs.
"""

import gc
import json
import sys
import threading
import time
from pathlib import Path

import psutil

from raycap.cluster.start import ray_cluster
from raycap.training.run import train
from tests.support.tiny_dataset import scene, write_dataset
from tests.support.training_run import TINY
from tests.support.training_stream import tiny_config

FEW, MANY = 300, 3000
IMAGE_BYTES = 30_000


def padded(number: int) -> bytes:
    """A picture with bytes behind its end, as large as a photo's file."""
    drawn, _ = scene(number)
    return drawn + bytes(IMAGE_BYTES - len(drawn))


class Peaks:
    """The largest private memory of this process and of each kind of worker, while it runs."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes: dict[str, int] = {}

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stopped.is_set():
            for process in (me, *me.children(recursive=True)):
                try:
                    name = "driver" if process == me else process.cmdline()[0].partition(" ")[0]
                    memory = process.memory_info()
                except (psutil.Error, IndexError):
                    continue
                if name == "driver" or name.startswith("ray::"):
                    # The object store is shared memory, bounded by Ray.
                    size = memory.rss - memory.shared
                    self.bytes[name] = max(size, self.bytes.get(name, 0))
            time.sleep(0.1)


def peaks_of(dataset: Path, output: Path) -> dict[str, int]:
    config = tiny_config(
        train={"num_epochs": 1, "batch_size": 32},
        engine={"shuffle_images": 64},
        validation={"num_images": 32},
        augment={"enabled": False},
    )
    gc.collect()
    with Peaks() as peaks:
        train(dataset, output, config=config, models=TINY)
    return peaks.bytes


def main(folder: Path) -> None:
    """Print the peaks of both runs."""
    for count in (FEW, MANY):
        files = {f"n{number:06d}": padded(number) for number in range(count)}
        write_dataset(
            str(folder / f"set-{count}"), f"train:{count}", "validation:32", part_size=64, **files
        )
    with ray_cluster():
        peaks_of(folder / f"set-{FEW}", folder / "warm")  # what is imported and cached comes first
        for count in (FEW, MANY):
            peaks = peaks_of(folder / f"set-{count}", folder / f"run-{count}")
            sys.stdout.write(f"{json.dumps(peaks)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
