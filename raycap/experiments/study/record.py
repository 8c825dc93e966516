"""Files of a study's systems."""

from dataclasses import asdict

from pydantic import TypeAdapter

from raycap.errors import ObjectNotFound
from raycap.results.study import SystemRecord
from raycap.runs.records import encode_json, read_as
from raycap.storage.base import Store

LOCK = "lock.json"
SYSTEMS = "systems/"
EVALUATION = "evaluation"
GROWTH = "growth"
_SYSTEM = "system.json"
_REMEDY = "delete it, and run the same command"

_SYSTEM_FORM = TypeAdapter(SystemRecord)


def folder_of(name: str) -> str:
    """Return the key prefix of a system's files."""
    return f"{SYSTEMS}{name}/"


def write_system(store: Store, system: SystemRecord) -> None:
    """Write `system.json`: the system has ended."""
    store.write(f"{folder_of(system.name)}{_SYSTEM}", encode_json(asdict(system)))


def read_system(store: Store, name: str) -> SystemRecord | None:
    """Read `system.json`; None if the system has not ended.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        found: SystemRecord = read_as(_SYSTEM_FORM, store, f"{folder_of(name)}{_SYSTEM}", _REMEDY)
    except ObjectNotFound:
        return None
    return found
