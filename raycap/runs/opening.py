"""Opening a run: lock its output, claim it by fingerprint, and stop cleanly at an interrupt.

A fingerprint holds everything that decides a run's result: the input, the model, the settings. The
first run writes its fingerprint into the output; a run with the same fingerprint continues there,
a run with another one is refused. Every command that can be continued opens its output here.
"""

import difflib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from raycap.config import Section
from raycap.errors import ConfigError, ObjectNotFound, RunConflict, RunStopped
from raycap.runs.records import (
    CONFIG,
    LOCK,
    RUN,
    encode_json,
    now,
    read_fingerprint,
    read_json,
    versions,
)
from raycap.storage.base import KEY, HeldLock, Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

_CONTINUE = "run the same command to continue"


class Claim:
    """A run's claim to an output, written to `run.json`; a command overrides what differs."""

    noun = "run"
    """What the output holds, for messages."""
    own_files: tuple[str, ...] = ()
    """Keys, and prefixes that end with `/`, which may exist before the output is claimed."""

    def __init__(self, fingerprint: dict[str, Any], config: Section) -> None:
        self.fingerprint = fingerprint
        self.config = config

    def find(self, store: Store) -> dict[str, Any] | None:
        """Return the fingerprint that the output holds; None where it holds none."""
        try:
            return read_fingerprint(store, read_json(store, RUN))
        except ObjectNotFound:
            return None

    def create(self, store: Store) -> None:
        """Write the fingerprint into an output that holds none.

        Raises:
            RunConflict: another writer did so at the same moment.
        """
        if not store.create(RUN, encode_json(self.record())):
            check_claim(store, self)

    def may_replace(self, store: Store) -> bool:
        """Whether the output's other run made nothing worth keeping; by default, never."""
        del store
        return False

    def remedy(self, theirs: dict[str, Any]) -> str:
        """Return what to do about another fingerprint, if more than the message already says."""
        del theirs
        return ""

    def replace(self, store: Store) -> None:
        """Replace the fingerprint of such a run; a command deletes what that run left."""
        logger.warning(
            "took over %s: another %s had claimed it, but made nothing there", store.uri, self.noun
        )
        store.write(RUN, encode_json(self.record()))

    def renew(self, store: Store) -> None:
        """Write down what may differ between invocations: all settings, to `config.json`."""
        store.write(CONFIG, encode_json(self.config.model_dump(mode="json")))

    def check_free(self, store: Store) -> None:
        """Refuse to mix a run with other files, such as a folder of images given as output.

        Raises:
            ConfigError: the output holds other files.
        """
        for page in store.list():
            for key in page[KEY].to_pylist():
                if key != LOCK and not self._is_own(key):
                    raise ConfigError(
                        f"{store.uri}: holds other files ({key}); give a new folder as output",
                        uri=store.uri,
                    )

    def record(self) -> dict[str, Any]:
        """Return the content of `run.json`."""
        return {"fingerprint": self.fingerprint, "versions": versions(), "created_at": now()}

    def _is_own(self, key: str) -> bool:
        return any(key == own or (own[-1] == "/" and key.startswith(own)) for own in self.own_files)


@dataclass(slots=True, kw_only=True)
class Run:
    """A claimed output that only this process writes to."""

    store: Store
    """The output; its writes fail once another writer has taken over. Write through no other."""
    lock: HeldLock
    describe_stop: Callable[[], str] | None = field(default=None)
    """Returns the message of the RunStopped that an interrupt raises."""

    def finish(self, write: Callable[[Store, T], None], result: T) -> None:
        """Write the last file of a run, whose presence means that the run is complete.

        Raises:
            RunConflict: another writer has taken over the output.
        """
        write(self.store, result)


@contextmanager
def open_run(store: Store, claim: Claim) -> Iterator[Run]:
    """Hold an output for writing within the block, after claiming it for a run.

    Ctrl-C (and SIGTERM, which the command line turns into the same) within the block becomes
    RunStopped, so that callers of the Python API see one error and the output stays continuable.

    Raises:
        ConfigError: the output holds other files.
        RunConflict: the output belongs to another run, or another writer holds it.
        RunStopped: the run was interrupted.
        StorageError: the store refuses.
    """
    with store.lock(LOCK) as lock:
        run = Run(store=lock.store, lock=lock)
        with stopping(lambda: _describe_stop(run)):
            claim_output(run.store, claim)
            yield run
            lock.ensure()  # nothing is reported as done in an output that is no longer ours


@contextmanager
def stopping(describe_stop: Callable[[], str]) -> Iterator[None]:
    """Turn an interrupt within the block into RunStopped with that message."""
    try:
        yield
    except KeyboardInterrupt:
        raise RunStopped(describe_stop()) from None


def claim_output(store: Store, claim: Claim) -> None:
    """Claim an output for a run, or make sure that it belongs to this run already.

    Raises:
        ConfigError: the output holds other files.
        RunConflict: the output belongs to another run; the message shows the difference.
    """
    found = claim.find(store)
    if found is None:
        store.remove_leftovers("")
        claim.check_free(store)
        claim.create(store)
    elif found != claim.fingerprint:
        if not claim.may_replace(store):
            raise _conflict(store, claim, found)
        claim.replace(store)
    claim.renew(store)


def check_claim(store: Store, claim: Claim) -> None:
    """Make sure that an output belongs to this run or is free; writes nothing.

    Raises:
        RunConflict: it belongs to another run; the message shows the difference.
        RaycapError: it belongs to no run, and `claim.check_free` refuses what it holds.
    """
    found = claim.find(store)
    if found is None:
        claim.check_free(store)
    elif found != claim.fingerprint and not claim.may_replace(store):
        raise _conflict(store, claim, found)


def check_claimed(store: Store, fingerprint: dict[str, Any]) -> None:
    """Make sure that this node sees the output that the driver has claimed.

    Raises:
        ConfigError: this node sees another folder at the same path.
    """
    try:
        is_ours = read_json(store, RUN).get("fingerprint") == fingerprint
    except ObjectNotFound:
        is_ours = False
    if not is_ours:
        raise ConfigError(
            f"{store.uri}: not the same folder on every node of the cluster; give an output that "
            "all nodes share, or s3://bucket/prefix",
            uri=store.uri,
        )


def _describe_stop(run: Run) -> str:
    if run.describe_stop is not None:
        return run.describe_stop()
    return f"stopped in {run.store.uri}; {_CONTINUE}"


def _conflict(store: Store, claim: Claim, theirs: dict[str, Any]) -> RunConflict:
    noun = claim.noun
    return RunConflict(
        f"{store.uri}: belongs to another {noun}; give another output, or the settings of that "
        f"{noun} (- that {noun}, + this one):\n{difference(theirs, claim.fingerprint)}"
        f"{claim.remedy(theirs)}",
        uri=store.uri,
    )


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Show how two fingerprints differ: `-` theirs, `+` ours, one setting per line."""
    lines = difflib.unified_diff(_flat(theirs), _flat(ours), lineterm="", n=0)
    # The first two lines are a diff's header; settings that are equal are not shown.
    changes = (line for line in islice(lines, 2, None) if not line.startswith("@@"))
    return "\n".join(f"  {line[0]} {line[1:]}" for line in changes)


def _flat(content: dict[str, Any], path: str = "") -> list[str]:
    lines = []
    for key, value in sorted(content.items()):
        name = f"{path}.{key}" if path else key
        lines += _flat(value, name) if isinstance(value, dict) else [f"{name} = {value!r}"]
    return lines
