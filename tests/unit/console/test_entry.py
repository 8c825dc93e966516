"""The entry of the command line: names in any encoding, and the end of the terminal."""

import os
import pty
import signal
import subprocess
import sys

import pytest

NAMES = """
from raycap import console
console.app = lambda: print("\\u0441\\u043d\\u0438\\u043c\\u043e\\u043a", "\\udcff", flush=True)
console.main()
"""
WAITS = """
import sys, time
from raycap import console


def app():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


console.app = app
console.main()
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_is_printed(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NAMES],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\udcff" in done.stdout


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGTERM])
def test_the_end_of_the_terminal_stops_as_sigterm_does(sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(sent)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (1, b"stopped\n")


def test_a_terminal_that_is_gone_is_not_written_to() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    assert os.read(ours, 5) == b"ready"
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 1


def test_nohup_is_respected() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.terminate()
    assert process.wait(20) == 1
    process.stdout.close()
