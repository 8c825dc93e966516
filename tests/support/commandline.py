"""The installed command line, run as a person or a scheduler runs it, and what it leaves."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

RAYCAP = str(Path(sys.executable).parent / "raycap")


@dataclass
class CommandLine:
    """Runs `raycap` in a folder, with an environment of its own."""

    folder: Path
    env: dict[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *arguments: object, timeout_s: float = 400) -> tuple[int, str, str]:
        """Run to the end; return exit code, standard output and standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout_s)
        return process.returncode, out, err

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        """Start, and return at once."""
        process = subprocess.Popen(
            [RAYCAP, *map(str, arguments)],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running.append(process)
        return process


def write_images(folder: Path, count: int, start: int = 0) -> None:
    """Write small JPEGs, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg")


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All rows of a local output, in part order."""
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "captions").glob("*.parquet")):
        rows += pq.read_table(part).to_pylist()
    return rows


def wait_until(
    happened: Callable[[], bool], process: "subprocess.Popen[Any] | None" = None
) -> None:
    """Wait for something that a running command does, or a job somewhere else."""
    deadline = time.monotonic() + 400  # a busy machine starts Ray Train in minutes
    while not happened():
        if process is not None and process.poll() is not None:
            said = process.communicate(timeout=60)[1]
            pytest.fail(f"the command ended before it happened, with {process.returncode}: {said}")
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def committed_parts(output: Path) -> int:
    """Count the parts that stand."""
    return len(list((output / "captions").glob("part-*.parquet")))


def workers_named(*kinds: str) -> list[psutil.Process]:
    """Find the processes of actors of these classes in this process's own local Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(kind in "".join(process.cmdline()[:1]) for kind in kinds):
                found.append(process)
    return found


def ray_processes_of(home: Path) -> list[int]:
    """Find the processes of the local Ray that a command with this home folder has started."""
    left = []
    for process in psutil.process_iter(["pid", "environ", "cmdline"]):
        environ = process.info["environ"] or {}
        if environ.get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
            left.append(process.info["pid"])
    return left


def ray_processes_left_of(home: Path) -> list[int]:
    """Find those that do not end; on a busy machine their end takes a while."""
    deadline = time.monotonic() + 60
    while (left := ray_processes_of(home)) and time.monotonic() < deadline:
        time.sleep(1)
    return left
