"""Every command that needs Ray, where Ray cannot start: `python -m tests.support.broken_ray`.

A program, because the process of the tests is connected to a Ray. Prints one line of JSON per
command and condition: exit code, standard error, and the type of an exception that got out.
"""

import json
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from raycap.console import app

COMMANDS = (
    "caption photos captioned --model stub",
    "caption photos sampled --model stub --preflight 2",
    "prepare photos prepared",
    "train set trained --model cnn-lstm --set architecture.encoder=small-cnn",
    "tune set searched --model cnn-lstm --set architecture.encoder=small-cnn",
    "study set studied",
    "calibrate demo set --output calibrated",
    "demo --output demonstrated",
    "doctor",
)


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Set variables of the environment."""
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


@contextmanager
def few_files() -> Iterator[None]:
    """Allow 256 open files, for good: a limit cannot be raised again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    yield


@contextmanager
def mute_server() -> Iterator[None]:
    """Name a cluster that nothing listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        with variables(RAY_ADDRESS=f"127.0.0.1:{found.getsockname()[1]}"):
            yield


@contextmanager
def no_token() -> Iterator[None]:
    """Name a cluster for which there is no token."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
        with variables(RAY_ADDRESS=address, RAY_AUTH_MODE="token"):
            yield


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Have Ray's files on a disk of 64 KiB, which has no room for them."""
    try:
        with variables(RAY_TMPDIR=str(folder.resolve())):
            yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def has_small_disk(folder: Path) -> bool:
    """Mount a small disk, which only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    return (
        not os.geteuid()
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


def conditions() -> Iterator[tuple[str, object]]:
    """Yield names, and what brings each about."""
    Path("file").write_text("no folder")
    yield "no folder", variables(RAY_TMPDIR=str(Path("file").resolve()))
    yield "read-only", variables(RAY_TMPDIR="/proc")
    if has_small_disk(Path("disk")):
        yield "no space", mounted(Path("disk"))
    yield "nobody answers", mute_server()
    yield "no token", no_token()
    yield "no address", variables(RAY_ADDRESS="nonsense")
    yield "few files", few_files()


def main() -> None:
    """Run every command under every condition."""
    for condition, brought_about in conditions():
        with brought_about:  # type: ignore[attr-defined]
            for command in COMMANDS:
                logging.getLogger().handlers.clear()  # of the last command's standard error
                found = CliRunner().invoke(app, command.split(), prog_name="raycap")
                error = found.exception
                told = {
                    "condition": condition,
                    "command": command,
                    "code": found.exit_code,
                    "out": found.stdout,
                    "err": found.stderr,
                    "error": None if isinstance(error, SystemExit | None) else repr(error),
                }
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
