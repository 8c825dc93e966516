"""A run that is killed or stopped loses nothing, repeats nothing, and leaves nothing behind."""

import os
import re
import signal
import time

from tests.support.commandline import (
    CommandLine,
    committed_parts,
    ray_processes_of,
    rows_of,
    wait_until,
    write_images,
)

NUM_IMAGES = 200
PART_SIZE = 10
SETTINGS = (
    *("--model", "stub"),
    *("--set", f"engine.part_size={PART_SIZE}"),
    *("--set", "engine.batch_size=10"),
)
SLOW = ("--set", "model.stub_latency_s=0.25")
SLOWER = ("--set", "model.stub_latency_s=2")


def test_kill_9_at_half_and_the_same_command_give_the_rows_of_an_undisturbed_run(
    raycap: CommandLine,
) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    output = raycap.folder / "killed"
    process = raycap.start("caption", "photos", "killed", *SETTINGS, *SLOW)
    wait_until(lambda: committed_parts(output) >= 10, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    committed = {p: p.stat().st_mtime_ns for p in (output / "captions").glob("part-*.parquet")}
    assert 10 <= len(committed) < NUM_IMAGES // PART_SIZE
    assert not (output / "summary.json").exists()
    code, out, _ = raycap("verify", "killed")
    assert code == 1
    assert "sound, not complete" in out

    code, out, err = raycap("caption", "photos", "killed", *SETTINGS, *SLOW)
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in committed} == committed
    assert f"{NUM_IMAGES - PART_SIZE * len(committed)} images in" in out
    assert raycap("verify", "killed")[0] == 0

    code, _, err = raycap("caption", "photos", "whole", *SETTINGS, *SLOW)
    assert code == 0, err
    assert rows_of(output) == rows_of(raycap.folder / "whole")


def test_a_killed_driver_takes_its_local_ray_with_it(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", 200)
    process = raycap.start("caption", "photos", "out", *SETTINGS, *SLOW)
    wait_until(lambda: committed_parts(raycap.folder / "out") >= 1, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while (left := ray_processes_of(raycap.folder / "home")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def stopped_by(raycap: CommandLine, sent: signal.Signals) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    output = raycap.folder / "out"
    process = raycap.start("caption", "photos", "out", *SETTINGS, *SLOW)
    wait_until(lambda: committed_parts(output) >= 5, process)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"of {NUM_IMAGES} images committed" in " ".join(err.split())
    assert "run the same command to continue" in " ".join(err.split())
    assert "Traceback" not in err
    assert not (output / "summary.json").exists()
    assert not list(output.rglob("*raycap-tmp"))
    code, _, err = raycap("caption", "photos", "out", *SETTINGS, *SLOW)
    assert code == 0, err
    assert [row["image_id"] for row in rows_of(output)] == [
        f"{number:06d}.jpg" for number in range(NUM_IMAGES)
    ]


def test_sigterm_stops_cleanly_and_says_how_to_continue(raycap: CommandLine) -> None:
    stopped_by(raycap, signal.SIGTERM)


def test_ctrl_c_stops_cleanly_and_says_how_to_continue(raycap: CommandLine) -> None:
    stopped_by(raycap, signal.SIGINT)


def test_a_second_run_into_the_same_output_is_refused_at_once(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", NUM_IMAGES)
    process = raycap.start("caption", "photos", "out", *SETTINGS, *SLOWER)
    wait_until(lambda: committed_parts(raycap.folder / "out") >= 1, process)
    code, out, _ = raycap("status", "out")
    assert code == 0
    assert re.search(r"state +running *\n", out)
    assert f"pid {process.pid}" in out
    code, _, err = raycap("caption", "photos", "out", *SETTINGS, *SLOWER)
    assert code == 1
    assert "another run is writing here" in " ".join(err.split())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    code, out, _ = raycap("status", "out")
    assert code == 1
    assert "stopped: the same command continues it" in out
