"""Work in the background: mail, errors, a lost lock, and one or two interrupts; without Ray."""

import os
import time
from collections.abc import Callable
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from raycap.cluster.background import Background
from raycap.cluster.mailbox import Mail, Mailbox, Sender, stop_and_wait
from raycap.errors import ModelError, RunConflict, RunStopped


class Actor:
    """An actor of this process: each call is made at once, and its result is its reference."""

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._kept, name))


class Lock:
    """A lock that is lost after some checks."""

    def __init__(self, num_checks: int = 10**6) -> None:
        self._num_left = num_checks

    def check(self) -> None:
        self._num_left -= 1
        if self._num_left < 0:
            raise RunConflict("taken over")


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in ("background", "mailbox"):
        here = SimpleNamespace(get=lambda it: it, wait=lambda them, timeout: (them, []))  # noqa: ARG005
        monkeypatch.setattr(f"raycap.cluster.{module}.ray", here)
    return Actor(Mailbox())


def background(mailbox: Any, work: Callable[[str], Any]) -> Background[Any]:
    return Background("test", work, mailbox, "try again")


def interrupted(sender: Sender) -> bool:
    """Work until the driver asks to stop, for 30 s at most."""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            sender.check_stop()
            time.sleep(0.05)
    except KeyboardInterrupt:
        return True
    return False


def test_mail_arrives_in_order_and_the_result_comes_last(mailbox: Any) -> None:
    def work(folder: str) -> str:
        sender = Sender(mailbox, "worker")
        for number in range(5):
            sender.post(number)
        sender.flush()
        return folder

    items: list[Any] = []
    result = background(mailbox, work).follow(Lock(), lambda mail: items.extend(mail.items))
    assert items == list(range(5))
    assert result is not None
    assert "raycap-test-" in result
    assert not os.path.exists(result)


def test_the_first_interrupt_asks_the_workers_to_stop_and_waits_for_them(mailbox: Any) -> None:
    sent: list[int] = []

    def on_mail(_: Mail) -> None:
        if not sent:
            sent.append(1)
            raise KeyboardInterrupt

    job = background(mailbox, lambda _: interrupted(Sender(mailbox, "worker")))
    assert job.follow(Lock(), on_mail) is True
    assert job.is_stopping
    assert not job.gives_up


def test_the_second_interrupt_does_not_wait(mailbox: Any) -> None:
    is_over = Event()
    sent: list[int] = []

    def on_mail(_: Mail) -> None:
        if len(sent) < 2:
            sent.append(1)
            raise KeyboardInterrupt

    job = background(mailbox, lambda _: is_over.wait(60))
    assert job.follow(Lock(), on_mail) is None
    assert job.gives_up
    is_over.set()


def test_an_error_of_the_work_is_raised_in_the_drivers_thread(mailbox: Any) -> None:
    def fail(error: Exception) -> Callable[[str], None]:
        def work(_: str) -> None:
            raise error

        return work

    with pytest.raises(ModelError, match="too large"):
        background(mailbox, fail(ModelError("too large"))).follow(Lock(), lambda _: None)
    with pytest.raises(RunStopped, match="try again"):
        background(mailbox, fail(ValueError("odd"))).follow(Lock(), lambda _: None)


def test_a_lost_lock_ends_the_work(mailbox: Any) -> None:
    has_ended = Event()

    def work(_: str) -> None:
        if interrupted(Sender(mailbox, "worker")):
            has_ended.set()

    with pytest.raises(RunConflict):
        background(mailbox, work).follow(Lock(2), lambda _: None)
    assert has_ended.wait(30)


def test_the_driver_waits_for_workers_that_began_unless_it_gives_up(mailbox: Any) -> None:
    mailbox.begin.remote("worker")
    stop_and_wait(mailbox, lambda: True)
    mailbox.end.remote("worker")
    stop_and_wait(mailbox, lambda: False)


def test_a_worker_is_interrupted_once(mailbox: Any) -> None:
    sender = Sender(mailbox, "worker")
    sender.check_stop()
    sender.stop()
    with pytest.raises(KeyboardInterrupt):
        sender.check_stop()
    sender.check_stop()
