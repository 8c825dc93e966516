"""When Ray is gone, the process says so and ends, even if its main thread is stuck."""

import subprocess
import sys

import pytest

SCRIPT = """
import logging, signal, sys, time
from raycap.cluster import watch
from raycap.errors import RunStopped

logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGINT, signal.default_int_handler)
watch._GRACE_S, watch._INTERRUPT_EVERY_S = 0.6, 0.2
gone_at = time.monotonic() + 0.2


def wait(timeout_s):
    time.sleep(0.05)
    return "the engine has ended" if time.monotonic() > gone_at else None


try:
    with watch.Watch(wait, lambda: print("all ended", flush=True)):
        {work}
except RunStopped as error:
    print("RunStopped", error, error.exit_code)
"""
STUCK = """while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass"""


def run(work: str) -> "subprocess.CompletedProcess[str]":
    script = SCRIPT.format(work=work)
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("work", ["time.sleep(60)", "time.sleep(0.5); raise ValueError('what')"])
def test_work_is_interrupted_and_fails_with_the_reason(work: str) -> None:
    done = run(work)
    assert done.returncode == 0, done.stderr
    assert "all ended" in done.stdout
    assert "RunStopped the engine has ended" in done.stdout
    assert "the engine has ended" in done.stderr


def test_a_process_that_does_not_react_is_ended_after_the_reason_was_told() -> None:
    done = run(STUCK)
    assert (done.returncode, done.stdout) == (1, "all ended\n")
    assert done.stderr.startswith("ray_ended the engine has ended")


def test_work_that_ends_by_itself_is_left_alone() -> None:
    done = run("print('done')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
