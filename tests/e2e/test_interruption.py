"""A run that is killed or stopped loses nothing, repeats nothing, and leaves nothing behind."""

import re
import signal
from pathlib import Path

import pytest

from tests.faults.drills import captions_of, told
from tests.support.cli import InProcess
from tests.support.commandline import (
    CommandLine,
    committed_parts,
    ray_processes_left_of,
    rows_of,
    wait_until,
    write_images,
)

NUM_IMAGES = 150
PART_SIZE = 10
COMMAND = (
    *("caption", "photos", "out", "--model", "stub", "--set", "model.stub_latency_s=0.5"),
    *("--set", f"engine.part_size={PART_SIZE}", "--set", "engine.batch_size=10"),
)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param((signal.SIGINT, signal.SIGKILL), id="interrupted-killed"),
        pytest.param((signal.SIGHUP,), id="terminal-closed", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_stopped_or_killed_and_the_same_command_goes_on_each_time(
    raycap: CommandLine, cli: InProcess, signals: tuple[signal.Signals, ...]
) -> None:
    """One command: after each signal again, and to the end.

    That SIGTERM does what Ctrl-C does is shown by test_training.py and unit/console/test_entry.py.
    """
    photos, output = raycap.folder / "photos", raycap.folder / "out"
    write_images(photos, NUM_IMAGES)
    written: dict[Path, int] = {}
    for sent in signals:
        before = committed_parts(output)
        process = raycap.start(*COMMAND)
        wait_until(lambda before=before: committed_parts(output) > before, process)  # type: ignore[misc]
        if sent is signal.SIGINT:
            check_only_writer(cli, process.pid)
        process.send_signal(sent)
        _, err = process.communicate(timeout=300)
        assert process.returncode == (-9 if sent is signal.SIGKILL else 1), err
        assert "Traceback" not in err
        if sent is not signal.SIGKILL:
            assert re.search(rf"of {NUM_IMAGES} images", " ".join(err.split()))
            assert not list(output.rglob("*raycap-tmp"))
        assert not (output / "summary.json").exists()
        assert cli("verify", "out")[0] == 1
        assert cli("status", "out")[0] == (0 if sent is signal.SIGKILL else 1)
        # What was committed once is never written again.
        parts = {path: path.stat().st_mtime_ns for path in output.glob("captions/part-*.parquet")}
        assert written.items() <= parts.items()
        written |= parts
    left = ray_processes_left_of(raycap.folder / "home")
    assert left == [], "a killed driver takes its local Ray with it"

    assert len(written) < NUM_IMAGES // PART_SIZE
    code, out, err = raycap(*COMMAND)
    assert code == 0, err
    assert f"{NUM_IMAGES - PART_SIZE * len(written)} images in" in out
    assert "images_per_s" in err
    assert "core_worker" not in err
    assert written.items() <= {path: path.stat().st_mtime_ns for path in written}.items()
    assert cli("verify", "out")[0] == 0
    assert told(rows_of(output)) == captions_of(photos)


def check_only_writer(cli: InProcess, pid: int) -> None:
    """While a run goes on, its state is seen, and a second one is refused at once."""
    code, out, _ = cli("status", "out")
    assert code == 0
    assert re.search(r"state +running *\n", out)
    assert f"pid {pid}" in out
    code, _, err = cli(*COMMAND)
    assert (code, err.count("\n")) == (1, 1)
    assert str(pid) in err
