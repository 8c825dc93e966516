"""Annotation files: opened in any store, read block by block, never held in memory whole."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from itertools import islice
from typing import Any, TypeVar

import ijson
import pyarrow as pa

from raycap.config import StorageConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.storage.address import Address
from raycap.storage.base import KEY, Store
from raycap.storage.local import LocalStore
from raycap.storage.ranged import RangedFile
from raycap.storage.stores import listed, open_store

T = TypeVar("T")

_LOCAL_BLOCK_BYTES = 262_144
# A request to S3 takes about as long as transferring 2 MB, hence larger blocks.
_REMOTE_BLOCK_BYTES = 4_194_304
_LINE_CHARS = 67_108_864
# RecursionError: a line of JSON nested a thousand deep. OSError: a page that Arrow cannot
# decompress; stores raise StorageError.
_MALFORMED = (csv.Error, ijson.JSONError, pa.ArrowException, ValueError, RecursionError, OSError)


class _BlockFile(RangedFile):
    """A RangedFile as BufferedReader needs it."""

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationFile:
    """A file of annotations; not opened yet."""

    store: Store
    key: str

    @property
    def uri(self) -> str:
        """Its full address."""
        return self.store.address(self.key)

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Its suffix in lower case, such as `.json`."""
        return os.path.splitext(self.name)[1].lower()

    @property
    def folder(self) -> str:
        """Address of the folder that contains it, without a trailing slash."""
        return self.uri.rpartition("/")[0]

    def exists(self) -> bool:
        """Return whether the file exists."""
        try:
            self.store.read_range(self.key, 0, 1)
        except ObjectNotFound:
            return False
        return True

    def open(self) -> BufferedReader:
        """Open the file to read and seek; one block of it is in memory.

        Raises:
            ObjectNotFound: there is no such file.
            StorageError: it cannot be read, now or in a later read.
        """
        is_local = isinstance(self.store, LocalStore)
        block_bytes = _LOCAL_BLOCK_BYTES if is_local else _REMOTE_BLOCK_BYTES
        size = self.store.size(self.key)
        return BufferedReader(_BlockFile(self.store, self.key, size), block_bytes)


def open_file(address: str, config: StorageConfig) -> AnnotationFile:
    """Name a file by its address; nothing is read yet.

    Raises:
        ConfigError: it is not an address of a store.
    """
    parsed = Address.parse(address)
    if parsed.is_local:
        folder, name = os.path.split(parsed.local_path)
    else:
        folder, _, name = address.rpartition("/")
    return AnnotationFile(store=open_store(folder, config), key=name)


def read_lines(
    file: AnnotationFile, newline: str = "\n", *, is_strict: bool = False
) -> Iterator[str]:
    """Yield a text file's lines with their ends.

    Args:
        file: the file, in UTF-8 with or without a byte order mark.
        newline: as of `open`.
        is_strict: raise at bytes that are not UTF-8. By default they become lone surrogates, so
            that one broken caption among millions does not end everything.

    Raises:
        DatasetError: a line is longer than 67,108,864 characters.
        UnicodeDecodeError: bytes are not UTF-8 and `is_strict`.
    """
    errors = "strict" if is_strict else "surrogateescape"
    with TextIOWrapper(file.open(), "utf-8-sig", errors=errors, newline=newline) as text:
        number = 0
        while line := text.readline(_LINE_CHARS):
            number += 1
            if len(line) == _LINE_CHARS and line[-1] not in "\r\n":
                raise DatasetError(
                    f"{file.uri}: line {number} is longer than {_LINE_CHARS:,} characters; "
                    "this is not a file of lines",
                    uri=file.uri,
                )
            yield line


def guarded(
    file: AnnotationFile, kind: str, items: Iterable[T], tell: Callable[[], int] | None = None
) -> Iterator[T]:
    """Yield a parser's items, and turn its errors into DatasetError.

    Args:
        file: the parsed file, for messages.
        kind: the format it is parsed as, for messages.
        items: the parser's output; its rows where `tell` is None.
        tell: returns the parser's position in bytes, to be reported where items are not rows.

    Raises:
        DatasetError: the file cannot be parsed any further; states the position and the reason.
    """
    remaining = iter(items)
    number = 1
    while True:
        try:
            item = next(remaining)
        except StopIteration:
            return
        except _MALFORMED as error:
            place = f"before byte {tell() + 1:,}" if tell else f"at row {number}"
            reason = " ".join(str(error).split())
            raise DatasetError(
                f"{file.uri}: {place}: cannot be read as {kind}: {reason}", uri=file.uri
            ) from error
        yield item
        number += 1


def paged(items: Iterable[T], num_items: int) -> Iterator[list[T]]:
    """Group items into lists of at most `num_items`."""
    remaining = iter(items)
    while page := list(islice(remaining, num_items)):
        yield page


def list_files(store: Store, suffixes: tuple[str, ...]) -> Iterator[AnnotationFile]:
    """Yield the files with one of some suffixes in a folder and all folders below it."""
    for table in listed(store):
        for key in table[KEY].to_pylist():
            file = AnnotationFile(store=store, key=key)
            if file.name.lower().endswith(suffixes) and not file.name.startswith("."):
                yield file
