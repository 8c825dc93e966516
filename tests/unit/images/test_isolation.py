"""A process that dies or hangs is an exception; a hang of this one ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from raycap.images.isolation import Isolated, ProcessDied

Work = Callable[[str], str]


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("broken in an odd way")
        self.lock = open(os.devnull)  # noqa: SIM115  a thing that cannot be sent


def work(what: str) -> str:
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(7)
    if what == "hang":
        time.sleep(600)
    if what == "raise":
        raise KeyError("not this one")
    if what == "odd":
        raise Unpicklable
    return f"{what} by {os.getpid()}"


def make_work() -> Work:
    return work


def cannot_be_made() -> Work:
    raise FileNotFoundError("weights")


@pytest.fixture
def isolated() -> Iterator[Isolated[str, str]]:
    found: Isolated[str, str] = Isolated(make_work)
    yield found
    found.close()


def test_calls_are_answered_by_one_other_process(isolated: Isolated[str, str]) -> None:
    assert not isolated.is_running
    first, second = isolated("a"), isolated("b")
    pid = int(first.removeprefix("a by "))
    assert second == f"b by {pid}"
    assert pid != os.getpid()
    isolated.close()
    assert not psutil.pid_exists(pid)
    assert isolated("c") != f"c by {pid}"


def test_a_process_can_be_started_ahead(isolated: Isolated[str, str]) -> None:
    isolated.start()
    assert isolated.is_running
    (child,) = [it for it in psutil.Process().children() if "spawn_main" in " ".join(it.cmdline())]
    isolated.start()  # not another one
    assert isolated("a") == f"a by {child.pid}"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("die", "SIGKILL"),
        ("exit", "7$"),
        ("hang", r"0\.5 s"),
    ],
)
def test_a_death_is_told_and_the_next_call_is_answered_again(
    isolated: Isolated[str, str], what: str, told: str
) -> None:
    isolated("first")  # so that the limit is not spent on starting
    started = time.monotonic()
    with pytest.raises(ProcessDied, match=told):
        isolated(what, 0.5 if what == "hang" else None)
    assert time.monotonic() - started < 10
    assert not isolated.is_running
    assert isolated("again").startswith("again by ")


def test_what_the_function_raises_is_raised_here_and_ends_nothing(
    isolated: Isolated[str, str],
) -> None:
    first = isolated("a")
    with pytest.raises(KeyError, match="not this one"):
        isolated("raise")
    with pytest.raises(RuntimeError, match="Unpicklable: broken in an odd way"):
        isolated("odd")
    assert isolated("a") == first


def test_what_cannot_be_made_is_told_at_every_call() -> None:
    broken: Isolated[str, str] = Isolated(cannot_be_made)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="weights"):
            broken("a")
    broken.close()


WATCHED = """
import sys, time
from threading import Thread
from raycap.images.isolation import HangWatch
watch = HangWatch(1.0)

def work(seconds):
    with watch():
        time.sleep(seconds)

for _ in range(4):
    work(0.4)  # busy for longer than the limit, but never with one thing
time.sleep(1.5)  # idle for longer than the limit
threads = [Thread(target=work, args=[seconds], daemon=True) for seconds in {seconds}]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("whole")
"""


@pytest.mark.parametrize(("seconds", "hangs"), [([0.3, 0.5], False), ([0.3, 600], True)])
def test_a_hang_ends_the_process_and_shows_where(seconds: list[float], hangs: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.replace("{seconds}", str(seconds))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == ((1, "") if hangs else (0, "whole\n"))
    assert ("in work" in done.stderr) == hangs
