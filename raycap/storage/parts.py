"""Numbered files of a folder in a store: the parts of an output."""

import re
from collections.abc import Iterator

from raycap.storage.base import KEY, Store

_NUMBER = re.compile(r"^part-(\d{6,})\.parquet$")


def part_key(folder: str, number: int) -> str:
    """Return the key of a part: `captions/part-000012.parquet`; `folder` ends with a slash."""
    return f"{folder}part-{number:06d}.parquet"


def list_parts(store: Store, folder: str) -> Iterator[int]:
    """Yield the numbers of the parts in a folder, in any order."""
    for page in store.list(folder):
        for key in page[KEY].to_pylist():
            if match := _NUMBER.match(key.removeprefix(folder)):
                yield int(match[1])
