"""JSON records beside an output: reading, writing, and what all of them hold."""

import hashlib
import json
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError, ObjectNotFound
from raycap.parsing import parse_json
from raycap.storage.base import Store

T = TypeVar("T")

RUN = "run.json"
"""The fingerprint of a run; written once."""
CONFIG = "config.json"
"""All settings of the last invocation."""
LOCK = "lock.json"
"""Held while a run writes."""


def read_json(store: Store, key: str) -> dict[str, Any]:
    """Read a JSON object. Raises DatasetError if it is damaged."""
    data = store.read(key)
    try:
        content = parse_json(data)
    except ValueError as error:
        raise DatasetError(
            f"{store.address(key)}: is not JSON ({error})", uri=store.address(key)
        ) from error
    if not isinstance(content, dict):
        raise DatasetError(f"{store.address(key)}: is not a JSON object", uri=store.address(key))
    return content


def read_fingerprint(store: Store, record: dict[str, Any]) -> dict[str, Any]:
    """Return the fingerprint in the content of a record. Raises DatasetError if it is none."""
    found = record.get("fingerprint", {})
    if not isinstance(found, dict):
        raise DatasetError(
            f"{store.address(RUN)}: is damaged (its fingerprint is not a JSON object); restore the "
            "file, or start in a new output",
            uri=store.address(RUN),
        )
    return found


def fingerprint_digest(fingerprint: dict[str, Any]) -> str:
    """Return a digest of a fingerprint, by which parts name their run."""
    text = json.dumps(fingerprint, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_as(form: TypeAdapter[T], store: Store, key: str, remedy: str) -> T:
    """Read a JSON object as the type it was written from.

    Args:
        form: of that type.
        store: the store that holds the object.
        key: its key.
        remedy: what the user can do if it is damaged.

    Raises:
        ObjectNotFound: there is no such object.
        DatasetError: it is damaged.
    """
    try:
        return form.validate_python(read_json(store, key))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(
            f"{store.address(key)}: is damaged ({place}: {first['msg']}); {remedy}",
            uri=store.address(key),
        ) from error


def read_if_any(form: TypeAdapter[T], store: Store, key: str, remedy: str) -> T | None:
    """Read a JSON object as `read_as` does; None if there is none.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return read_as(form, store, key, remedy)
    except ObjectNotFound:
        return None


def encode_json(content: dict[str, Any]) -> bytes:
    """Encode a record as indented JSON that ends with a newline."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run's result may depend on."""
    names = ("raycap", "ray", "torch", "transformers", "pillow", "pyarrow")
    found = {name: version(name) for name in names}
    with suppress(PackageNotFoundError):
        found["vllm"] = version("vllm")
    return found


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
