"""A driver is stopped for longer than it may be, another takes over, and the first is continued.

The first one must end with one line and exit code 1, and must not have changed anything.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from raycap.captioning.verify import verify
from tests.conftest import S3
from tests.faults.drills import SETTINGS, SLOW, check_one_line, check_verified
from tests.support.cli import InProcess
from tests.support.commandline import CommandLine, committed_parts, wait_until, write_images
from tests.support.faulty_http import (
    Fault,
    FaultyServer,
    Handler,
    TrueReply,
    faulty_server,
    truthful,
)

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

NUM_IMAGES = 120


@pytest.fixture
def server(s3: S3) -> Iterator[FaultyServer]:
    with faulty_server(s3.endpoint) as server:
        yield server


def content(s3: S3) -> dict[str, bytes]:
    """Every object of the output."""
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix="out/")
    return {
        item["Key"]: s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
        for page in pages
        for item in page.get("Contents", [])
    }


def slow_manifest(handler: Handler) -> Fault:
    """Take a second for each part of the manifest, so that the driver can be stopped there."""

    def slow(handler: Handler, reply: TrueReply) -> None:
        handler.server.stopped.wait(1)
        handler.send(reply())

    return slow if handler.command == "PUT" and "/manifest/" in handler.path else truthful


def ended(process: "Popen[str]") -> tuple[int, str]:
    """Wait for the end of a process; return its exit code and standard error."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


TWO_STREAMS = ("--set", "engine.num_streams=2", "--set", "engine.num_actors=2")


@pytest.mark.parametrize(
    ("key", "streams"),
    [
        pytest.param("manifest/part-000002", (), id="manifest"),
        pytest.param("captions/part-000002", (), id="captions"),
        # They go on while their driver is stopped, until it has lost its lock.
        pytest.param("captions/part-000002", TWO_STREAMS, id="captions of two streams"),
    ],
)
def test_a_driver_that_was_stopped_on_s3_ends_and_changes_nothing(
    raycap: CommandLine,
    cli: InProcess,
    s3: S3,
    server: FaultyServer,
    key: str,
    streams: tuple[str, ...],
) -> None:
    """Stopped as it writes its manifest, or its captions."""
    photos = raycap.folder / "photos"
    write_images(photos, NUM_IMAGES)
    output = f"{s3.uri}/out"
    raycap.env |= s3.env
    server.rule = slow_manifest
    few = ("--set", "storage.list_threads=1")
    command = ("caption", "photos", output, *SETTINGS, *few)
    proxied = CommandLine(raycap.folder, {**raycap.env, "AWS_ENDPOINT_URL": server.url})
    first = proxied.start(*command, *SLOW, *streams)
    raycap.running.append(first)
    wait_until(lambda: any(f"/out/{key}" in path for _, path, _ in server.requests), first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        write_images(photos, 1, start=NUM_IMAGES)
        code, _, err = cli(*command)
        assert code == 0, err
        check_verified(output)
        before = content(s3)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    code, err = ended(first)
    assert code == 1
    check_one_line(err, "another run took over")
    time.sleep(1)
    assert content(s3) == before
    found = verify(output)
    assert (found.num_images, found.num_ok) == (NUM_IMAGES + 1, NUM_IMAGES + 1)
    plan: dict[str, Any] = json.loads(before["out/plan.json"])
    assert plan["num_images"] == NUM_IMAGES + 1
    code, out, err = cli(*command)
    assert code == 0, err
    assert "nothing to do" in out


def begin_anew(folder: Path, cli: InProcess) -> None:
    shutil.rmtree(folder)
    other = ("--set", "generation.num_beams=1", "--set", "generation.max_new_tokens=7")
    code, _, err = cli("caption", "photos", "out", *SETTINGS, *other)
    assert code == 0, err


def rename(folder: Path, cli: InProcess) -> None:
    del cli
    folder.rename(folder.with_name("elsewhere"))


def delete_lock(folder: Path, cli: InProcess) -> None:
    del cli
    (folder / "lock.json").unlink()


def stop_between_writes(process: "Popen[str]", output: Path) -> None:
    """Stop it while no file of its is half written: unit/storage/test_folder_lock.py has those."""
    os.kill(process.pid, signal.SIGSTOP)
    while list(output.rglob("*raycap-tmp")):
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("change", [begin_anew, rename, delete_lock])
def test_a_driver_whose_folder_was_replaced_ends_and_changes_nothing(
    raycap: CommandLine, cli: InProcess, change: Any
) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    output = raycap.folder / "out"
    first = raycap.start("caption", "photos", "out", *SETTINGS, *SLOW)
    wait_until(lambda: committed_parts(output) >= 1, first)
    stop_between_writes(first, output)
    try:
        change(output, cli)
        folders = [output, output.with_name("elsewhere")]
        before = {path: path.stat().st_mtime_ns for root in folders for path in root.rglob("*")}
    finally:
        os.kill(first.pid, signal.SIGCONT)
    code, err = ended(first)
    assert code == 1
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert str(output) in line
    after = {path: path.stat().st_mtime_ns for root in folders for path in root.rglob("*")}
    assert after == before
    if change is begin_anew:
        check_verified(output)
