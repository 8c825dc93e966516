"""The log of an output's edits: numbered files in `edits/`, each written once.

    edits/000000001.jsonl             what one reviewer saved at once: the first saving
    edits/000000001-000001000.jsonl   a copy of the first thousand, so that few files are read

A writer reads the log to its end and creates the file with the next number, which only one can do.
So every saving knows all that were saved before, whichever clocks and machines are involved, and a
file that is missing is noticed. An id of an edit is the number of its file and of its line.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import groupby

from raycap.edits.records import Edit, decode_edits, encode_edits
from raycap.errors import DatasetError, ObjectNotFound
from raycap.storage.base import KEY, Store
from raycap.storage.parallel import ordered_map

EDITS = "edits/"
PACK_SIZE = 1_000
"""Savings that a pack copies."""
_MAX_PACK_BYTES = 64_000_000
_NAME = re.compile(r"(\d{9,})(?:-(\d{9,}))?\.jsonl")
_NUM_THREADS = 32
_NUM_LISTINGS = 3


def edit_key(number: int) -> str:
    """Return the key of a saving."""
    return f"{EDITS}{number:09d}.jsonl"


def edit_id(number: int, line: int) -> str:
    """Return the id of an edit: the line of a saving, both counted from 1."""
    return f"{number:09d}-{line:06d}"


def _pack_key(first: int, last: int) -> str:
    return f"{EDITS}{first:09d}-{last:09d}.jsonl"


class EditLog:
    """All edits of an output, read as far as they were saved."""

    def __init__(self, store: Store, num_threads: int = _NUM_THREADS) -> None:
        self.store = store
        self._num_threads = num_threads
        self._packs: set[int] = set()
        self._num_read = 0

    @property
    def next_number(self) -> int:
        """The number of the next saving."""
        return self._num_read + 1

    def read_new(self) -> list[Edit]:
        """Return the edits that were saved since the last call, in order of their ids.

        Raises:
            DatasetError: a file is missing, damaged, or was not written by raycap.
            StorageError: the store refuses.
        """
        found = [] if self._num_read else self._read_all()
        while True:
            number = self._num_read + 1
            try:
                data = self.store.read(edit_key(number))
            except ObjectNotFound:
                return found
            if not data:
                return found  # is being written, where the file system has no hard links
            found += self._decode(edit_key(number), data, number)
            self._num_read = number

    def _read_all(self) -> list[Edit]:
        keys = self._keys()
        if not keys:
            return []
        read = partial(self._read, keys)
        found: list[Edit] = []
        for first, edits in zip(
            sorted(keys), ordered_map(read, sorted(keys), self._num_threads), strict=True
        ):
            if not edits:
                break  # is being written; it is the last one, as `_read` makes sure
            found += edits
            self._num_read = keys[first][1]
        self._packs = {first for first, (key, _) in keys.items() if "-" in key}
        return found

    def _read(self, keys: dict[int, tuple[str, int]], first: int) -> list[Edit]:
        key, last = keys[first]
        data = self.store.read(key)
        if not data and last != max(other for _, other in keys.values()):
            raise _fault(self.store, key, "is empty; restore the file")
        return self._decode(key, data, first)

    def _keys(self) -> dict[int, tuple[str, int]]:
        """Return the files to read, by the number of their first saving, with that of their last.

        A listing of a folder that is being written may lack a file and have its successor.
        """
        for attempt in range(_NUM_LISTINGS):
            files = self._list()
            found: dict[int, tuple[str, int]] = {}
            number, last = 1, max((last for _, last in files), default=0)
            while number <= last:
                end = number + PACK_SIZE - 1
                taken = end if (number, end) in files else number
                if (number, taken) not in files:
                    break
                found[number] = (files[number, taken], taken)
                number = taken + 1
            if number > last:
                return found
            if attempt == _NUM_LISTINGS - 1:
                raise _fault(self.store, edit_key(number), "is missing; restore the file")
        raise AssertionError("unreachable")

    def _list(self) -> dict[tuple[int, int], str]:
        files: dict[tuple[int, int], str] = {}
        for page in self.store.list(EDITS):
            for key in page[KEY].to_pylist():
                name = key.removeprefix(EDITS)
                if name.startswith("."):
                    continue  # temporary, or of the file manager
                match = _NAME.fullmatch(name)
                if not match:
                    raise _fault(
                        self.store, key, "was not written by raycap; move it out of the folder"
                    )
                files[int(match[1]), int(match[2] or match[1])] = key
        return files

    def _decode(self, key: str, data: bytes, number: int) -> list[Edit]:
        try:
            edits = decode_edits(data)
        except ValueError as error:
            raise _fault(self.store, key, f"is damaged ({error}); restore the file") from error
        self._check_ids(key, edits, number)
        return edits

    def _check_ids(self, key: str, edits: list[Edit], number: int) -> None:
        """Raise DatasetError if edits are not those of this file."""
        expected = number
        for of_file, group in groupby(edits, lambda edit: edit.edit_id.partition("-")[0]):
            ids = [edit.edit_id for edit in group]
            if of_file != f"{expected:09d}" or ids != [
                edit_id(expected, line) for line in range(1, len(ids) + 1)
            ]:
                raise _fault(self.store, key, "has the edits of another file; restore it")
            expected += 1

    def add(self, edits: list[Edit]) -> bool:
        """Save edits under the next number; return whether nobody else has used that.

        Args:
            edits: with the ids of that number.
        """
        number = self.next_number
        key, data = edit_key(number), encode_edits(edits)
        # A request that was sent again may find what it had written itself.
        if not self.store.create(key, data) and self.store.read(key) != data:
            return False
        self._num_read = number
        return True

    def packs_due(self) -> Iterator[int]:
        """Yield the first number of each thousand of savings that has no pack."""
        for first in range(1, self._num_read - PACK_SIZE + 2, PACK_SIZE):
            if first not in self._packs:
                yield first

    def pack(self, first: int, edits: list[Edit]) -> None:
        """Write the pack that begins with a number.

        Args:
            first: the number.
            edits: those of its thousand savings.
        """
        data = encode_edits(edits)
        if len(data) <= _MAX_PACK_BYTES:
            self.store.create(_pack_key(first, first + PACK_SIZE - 1), data)
        self._packs.add(first)


def _fault(store: Store, key: str, what: str) -> DatasetError:
    return DatasetError(f"{store.address(key)}: {what}", uri=store.address(key))
