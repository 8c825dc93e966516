"""JSON records beside an output: reading, writing, and what all of them tell."""

import difflib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

from pydantic import ValidationError

from raycap.config import Section
from raycap.errors import ConfigError, DatasetError, ObjectNotFound, RunConflict
from raycap.storage.base import KEY, Store

RUN = "run.json"
"""The fingerprint of a run, created once: another run is refused."""
CONFIG = "config.json"
"""All settings of the last invocation, resolved."""


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


def read_as(form: Any, store: Store, key: str, remedy: str) -> Any:
    """Read a JSON object as what it was written from.

    Args:
        form: a pydantic TypeAdapter of that.
        store: where it stands.
        key: its key.
        remedy: what a person does where it is damaged.

    Raises:
        ObjectNotFound: there is none.
        DatasetError: it is damaged.
    """
    try:
        return form.validate_python(read_json(store, key))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(
            f"{store.address(key)}: is damaged ({place}: {first['msg']}); {remedy}"
        ) from error


def claim_run(
    store: Store,
    mark: dict[str, Any],
    config: Section,
    *,
    lock: str,
    gives_way: Callable[[], bool] = lambda: False,
) -> None:
    """Create `run.json`, or make sure that the one that stands is of the same run.

    Args:
        store: the output.
        mark: the run's fingerprint.
        config: all settings, for `config.json`.
        lock: key of the lock, which is held.
        gives_way: clears what another run has left, and says whether it may be replaced.

    Raises:
        ConfigError: the output holds other files.
        RunConflict: the output belongs to another run; the message shows the difference.
    """
    try:
        theirs = read_json(store, RUN).get("fingerprint", {})
    except ObjectNotFound:
        _check_empty(store, lock)
        theirs = None
    if theirs != mark:
        if theirs is not None and not gives_way():
            raise RunConflict(
                f"{store.uri}: belongs to another run; give another output, or the settings of "
                f"that run (- that run, + this one):\n{difference(theirs, mark)}"
            )
        run = {"fingerprint": mark, "versions": versions(), "created_at": now()}
        store.write(RUN, encode_json(run))
    store.write(CONFIG, encode_json(config.model_dump(mode="json")))


def check_claimed(store: Store, mark: dict[str, Any]) -> None:
    """Make sure that this node sees the output that the driver has claimed.

    Raises:
        ConfigError: it sees another one.
    """
    with suppress(ObjectNotFound):
        if read_json(store, RUN).get("fingerprint") == mark:
            return
    raise ConfigError(
        f"{store.uri}: not the same folder on every node of the cluster; give an output that all "
        "nodes share, or s3://bucket/prefix"
    )


def _check_empty(store: Store, lock: str) -> None:
    """Refuse to mix a run with other files: the dataset given as output, say."""
    for page in store.list():
        for key in page[KEY].to_pylist():
            if key != lock:
                raise ConfigError(
                    f"{store.uri}: holds other files ({key}); give a new folder as output"
                )


def versions() -> dict[str, str]:
    """Name the versions that a run's captions may depend on."""
    names = ("raycap", "ray", "torch", "transformers", "pillow", "pyarrow")
    told = {name: version(name) for name in names}
    with suppress(PackageNotFoundError):
        told["vllm"] = version("vllm")
    return told


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
