"""The end of the command line: an impatient Ctrl-C shows no traceback."""

import signal
import subprocess
import sys

import pytest

SLOW_EXIT = """
import atexit, sys, time
from raycap.console import main

def clean_up():
    print("cleaning up", flush=True)
    time.sleep(60)

atexit.register(clean_up)
sys.argv = ["raycap", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["status", "/nowhere/at/all"], 2)]
)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_process_ends_shows_no_traceback(
    arguments: list[str], code: int, sent: signal.Signals
) -> None:
    command = [sys.executable, "-c", SLOW_EXIT, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "cleaning up" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(sent)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
