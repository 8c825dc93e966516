"""JSON records beside an output: reading, writing, and what all of them tell."""

import difflib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import Any

from raycap.errors import DatasetError
from raycap.storage.base import Store


def read_json(store: Store, key: str) -> dict[str, Any]:
    """Read a JSON object. Raises DatasetError if it is damaged."""
    data = store.read(key)
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DatasetError(f"{store.address(key)}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{store.address(key)}: is not a JSON object")
    return content


def versions() -> dict[str, str]:
    """Name the versions that a run's captions may depend on."""
    names = ("raycap", "ray", "torch", "transformers", "pillow", "pyarrow")
    return {name: version(name) for name in names}


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def encode_json(content: dict[str, Any]) -> bytes:
    """Encode a record as people read it: indented, one line at the end."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Show how two records differ: `-` theirs, `+` ours, one setting a line."""
    lines = difflib.unified_diff(_flat(theirs), _flat(ours), lineterm="", n=0)
    # The first two lines are the head of a diff; settings that stand alike are not shown.
    changes = (line for line in islice(lines, 2, None) if not line.startswith("@@"))
    return "\n".join(f"  {line[0]} {line[1:]}" for line in changes)


def _flat(content: dict[str, Any], path: str = "") -> list[str]:
    lines = []
    for key, value in sorted(content.items()):
        name = f"{path}.{key}" if path else key
        lines += _flat(value, name) if isinstance(value, dict) else [f"{name} = {value!r}"]
    return lines
