"""Processes are killed, `-9`, again and again: the same command ends with the very same rows."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from tests.conftest import S3
from tests.faults.drills import (
    SETTINGS,
    SLOW,
    caption_of,
    captions_of,
    check_verified,
    told,
)
from tests.support.cli import InProcess
from tests.support.commandline import (
    CommandLine,
    committed_parts,
    ray_processes_of,
    rows_of,
    wait_until,
    workers_named,
    write_images,
)
from tests.support.faulty_http import FaultyServer, Handler, TrueReply, truthful
from tests.support.tars import jpeg, write_shard

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

NUM_IMAGES = 120
NUM_PARTS = 12
STREAMS = ("--set", "engine.num_streams=2", "--set", "engine.num_actors=2")

Moment = Callable[[Path], bool]

MOMENTS: dict[str, Moment] = {
    "as the plan is written": lambda output: (output / "manifest").is_dir(),
    "before the first part": lambda output: (output / "manifest" / "part-000011.parquet").exists(),
    "after the first part": lambda output: committed_parts(output) >= 1,
    "in the middle": lambda output: committed_parts(output) >= 6,
    "before the summary": lambda output: committed_parts(output) == NUM_PARTS,
}


def test_the_driver_is_killed_at_every_moment_one_after_the_other(
    raycap: CommandLine, cli: InProcess
) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    output = raycap.folder / "out"
    seen: Counter[Path] = Counter()
    for moment in MOMENTS.values():
        process = raycap.start("caption", "photos", "out", *SETTINGS, *SLOW)
        wait_until(lambda moment=moment: moment(output), process)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (output / "summary.json").exists()
        # What was committed once is never written again.
        written = {path: path.stat().st_mtime_ns for path in output.glob("captions/part-*")}
        assert all(seen[path] in (0, at) for path, at in written.items())
        seen.update({path: at for path, at in written.items() if not seen[path]})
    code, _, err = cli("caption", "photos", "out", *SETTINGS)
    assert code == 0, err
    check_verified(raycap.folder / "out")
    assert told(rows_of(output)) == captions_of(raycap.folder / "photos")
    assert not list(output.rglob("*raycap-tmp"))


def test_a_run_over_tars_is_killed_in_the_middle_of_one_and_the_same_command_goes_on(
    raycap: CommandLine, cli: InProcess
) -> None:
    for number in range(2):
        seeds = range(60 * number, 60 * number + 60)
        write_shard(raycap.folder / f"shards/{number}.tar", seeds)
    output = raycap.folder / "out"
    process = raycap.start("caption", "shards/{0..1}.tar", "out", *SETTINGS, *SLOW)
    wait_until(lambda: committed_parts(output) >= 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in output.glob("captions/part-*")}
    assert 2 <= len(written) < NUM_PARTS
    code, _, err = cli("caption", "shards/{0..1}.tar", "out", *SETTINGS)
    assert code == 0, err
    check_verified(output)
    names = {f"{seed // 60}.tar/{seed:06d}.jpg": seed for seed in range(NUM_IMAGES)}
    assert told(rows_of(output)) == {name: caption_of(jpeg(n)) for name, n in names.items()}
    assert all(path.stat().st_mtime_ns == at for path, at in written.items())


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_process_of_ray_is_killed_and_the_run_ends_with_a_line(
    raycap: CommandLine, cli: InProcess, name: str
) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    output = raycap.folder / "out"
    process = raycap.start("caption", "photos", "out", *SETTINGS, *SLOW)
    wait_until(lambda: committed_parts(output) >= 1, process)
    started = psutil.Process(process.pid).children()
    scripts = {Path(part).name for one in started for part in one.cmdline()[:4]}
    assert not scripts & {"monitor.py", "log_monitor.py", "dashboard.py"}
    (found,) = [one for one in started if one.name() == name]
    found.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Ray's process {name} has ended (SIGKILL)" in err
    home = Path(raycap.env["HOME"])
    wait_until(lambda: not ray_processes_of(home))  # agents notice it a little later
    code, _, err = cli("caption", "photos", "out", *SETTINGS)
    assert code == 0, err
    check_verified(output)


def test_the_driver_of_two_streams_is_killed_and_the_same_command_goes_on(
    raycap: CommandLine, cli: InProcess
) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    output = raycap.folder / "out"
    process = raycap.start("caption", "photos", "out", *SETTINGS, *STREAMS, *SLOW)
    wait_until(lambda: committed_parts(output) >= 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not ray_processes_of(Path(raycap.env["HOME"])))
    written = {path: path.stat().st_mtime_ns for path in output.glob("captions/part-*")}
    assert 4 <= len(written) < NUM_PARTS
    code, _, err = cli("caption", "photos", "out", *SETTINGS, *STREAMS)
    assert code == 0, err
    check_verified(output)
    assert told(rows_of(output)) == captions_of(raycap.folder / "photos")
    assert all(path.stat().st_mtime_ns == at for path, at in written.items())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("CaptionActor", ()),
        ("load_parts", ()),
        ("CaptionActor", STREAMS),
        ("load_drawn", STREAMS),
    ],
)
def test_a_worker_is_killed_in_the_middle_and_the_run_goes_on(
    cli: InProcess, s3: S3, sick_s3: FaultyServer, name: str, more: tuple[str, ...]
) -> None:
    photos, output = cli.folder / "photos", cli.folder / "out"
    write_images(photos, 60)
    for path in photos.iterdir():
        s3.put(f"photos/{path.name}", path.read_bytes())

    last_names = sorted(path.name for path in photos.iterdir())[30:]
    killed: list[int] = []
    struck = Event()

    def held(handler: Handler, reply: TrueReply) -> None:
        struck.wait(60)
        handler.send(reply())

    # The second half is loaded only after the killing, which therefore always meets a run at work.
    sick_s3.rule = lambda handler: (
        held if any(name in handler.path for name in last_names) else truthful
    )

    def kill_once_committed() -> None:
        wait_until(lambda: committed_parts(output) >= 1 and bool(workers_named(name)))
        for worker in workers_named(name):
            killed.append(worker.pid)
            worker.kill()
        struck.set()

    killer = Thread(target=kill_once_committed)
    killer.start()
    code, _, err = cli(
        *("caption", f"{s3.uri}/photos", "out", *SETTINGS, *SLOW, *more),
        *("--set", "engine.fetch_threads=2", "--set", "image.max_bytes=1000000"),
    )
    killer.join()
    assert code == 0, err
    assert killed
    check_verified(output)
    assert told(rows_of(output)) == captions_of(photos)


DEDUPLICATE = ("--set", "engine.deduplicate=content")
NUM_DISTINCT = 20


def write_copies(folder: Path, count: int) -> None:
    """Write images of which each is there several times."""
    write_images(folder, NUM_DISTINCT)
    for number in range(NUM_DISTINCT, count):
        (folder / f"{number:06d}.jpg").write_bytes(
            (folder / f"{number % NUM_DISTINCT:06d}.jpg").read_bytes()
        )


def test_the_index_of_digests_is_killed_and_no_image_is_captioned_twice(
    cli: InProcess, s3: S3, sick_s3: FaultyServer
) -> None:
    photos, output = cli.folder / "photos", cli.folder / "out"
    write_copies(photos, 60)
    for path in photos.iterdir():
        s3.put(f"photos/{path.name}", path.read_bytes())
    struck = Event()

    def held(handler: Handler, reply: TrueReply) -> None:
        struck.wait(60)
        handler.send(reply())

    sick_s3.rule = lambda handler: held if "/00003" in handler.path else truthful

    def kill_once_committed() -> None:
        wait_until(lambda: committed_parts(output) >= 1 and bool(workers_named("DigestIndex")))
        for worker in workers_named("DigestIndex"):
            worker.kill()
        struck.set()

    killer = Thread(target=kill_once_committed)
    killer.start()
    code, out, err = cli(
        *("caption", f"{s3.uri}/photos", "out", *SETTINGS, *SLOW, *DEDUPLICATE),
        *("--set", "engine.fetch_threads=2", "--set", "image.max_bytes=1000000"),
    )
    killer.join()
    assert code == 0, err
    assert struck.is_set()
    check_verified(output)
    rows = rows_of(output)
    assert told(rows) == captions_of(photos)
    assert sum(row["attempts"] > 0 for row in rows) == NUM_DISTINCT
    assert str(60 - NUM_DISTINCT) in out


COPYING_MOMENTS: dict[str, Moment] = {
    "after the first part": lambda output: committed_parts(output) >= 1,
    "in the middle": lambda output: committed_parts(output) >= 4,
    "as the last is committed": lambda output: committed_parts(output) == 6,
}


def test_the_driver_is_killed_again_and_again_and_copies_get_their_captions(
    raycap: CommandLine, cli: InProcess
) -> None:
    write_copies(raycap.folder / "photos", 60)
    output = raycap.folder / "out"
    for moment in COPYING_MOMENTS.values():
        process = raycap.start("caption", "photos", "out", *SETTINGS, *SLOW, *DEDUPLICATE)
        wait_until(lambda moment=moment: moment(output), process)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (output / "summary.json").exists()
        wait_until(lambda: not ray_processes_of(Path(raycap.env["HOME"])))
    code, _, err = cli("caption", "photos", "out", *SETTINGS, *DEDUPLICATE)
    assert code == 0, err
    check_verified(output)
    rows = rows_of(output)
    assert told(rows) == captions_of(raycap.folder / "photos")
    assert not any(row["error_code"] for row in rows)
