"""A source that has moved: its run goes on with the same captions.

`run.json` keeps the fingerprint that the run began with, which its parts may name, and also says
where the source is now. Planning then gives the images their new addresses.
"""

import os
import shlex
from dataclasses import dataclass
from typing import Any

from raycap.errors import ObjectNotFound, RunConflict
from raycap.results.captioning import MOVED_TO
from raycap.runs.records import RUN, encode_json, read_json
from raycap.storage.address import Address
from raycap.storage.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Where the source of a run is now."""

    fingerprint: dict[str, Any]
    """That of the run: with the address that its source had at first."""
    source: str
    """The present address."""
    is_moved: bool
    """Whether the source has ever moved: images may still have an address of before."""

    def record(self, store: Store) -> None:
        """Write the present address into `run.json`; only the holder of the lock may."""
        if self.is_moved:
            record = read_json(store, RUN)
            if record.get(MOVED_TO) != self.source:
                store.write(RUN, encode_json({**record, MOVED_TO: self.source}))


def find_move(store: Store, fingerprint: dict[str, Any], former: str | None) -> Move:
    """Find the run that an output holds over a source that has moved.

    Args:
        store: the output.
        fingerprint: that of the run to begin or continue, with the present address of its source.
        former: the address that the source had before, if the user gives one.

    Returns:
        With the fingerprint as given if there is no such run.

    Raises:
        RunConflict: the source has moved elsewhere, by an earlier invocation.
    """
    here = str(fingerprint["source"])
    same = Move(fingerprint=fingerprint, source=here, is_moved=False)
    try:
        record = read_json(store, RUN)
    except ObjectNotFound:
        return same
    theirs: dict[str, Any] = record.get("fingerprint") or {}
    if "source" not in theirs or {**theirs, "source": here} != fingerprint:
        return same  # another run: the claim refuses it
    latest = record.get(MOVED_TO, theirs["source"])
    if latest == here:
        return Move(fingerprint=theirs, source=here, is_moved=MOVED_TO in record)
    if former is not None and is_address_of(former, latest):
        return Move(fingerprint=theirs, source=here, is_moved=True)
    if here == theirs["source"]:
        raise RunConflict(
            f"{store.uri}: its source has moved to {latest}; if it has moved back, add "
            f"--source-moved-from {shlex.quote(latest)}",
            uri=store.uri,
        )
    return same


def is_address_of(given: str, source: str) -> bool:
    """Return whether a given address, of something that may be gone, is that of a run's source."""
    address = Address.parse(given)
    if not address.is_local:
        return given.rstrip("/") == source.rstrip("/")
    return source in (address.local_path, os.path.realpath(address.local_path))
