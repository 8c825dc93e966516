"""Annotation files: opened wherever they stand, read block by block, never held whole.

The text of a JSON file on its way to a parser, refused where the parser would not survive it.

ijson keeps the path of every open list, so that a file of 200,000 brackets would take 100 GB, and
ends the process at a number that is longer than Python's limit of 4,300 digits.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from itertools import chain, islice
from typing import Any, TypeVar

import ijson
import pyarrow as pa

from raycap.errors import DatasetError, ObjectNotFound
from raycap.storage.base import KEY, Store
from raycap.storage.local import LocalStore
from raycap.storage.ranged import RangedFile

MAX_DEPTH = 100
"""Lists and objects within each other; annotations have three or four."""

_MAX_DIGITS = 4_000
_TO_NINES = bytes.maketrans(b"012345678", b"9" * 9)
_LONG_NUMBER = b"9" * (_MAX_DIGITS + 1)
_BOM = b"\xef\xbb\xbf"
_KEPT = b'"[]{}'
_DROPPED = bytes(set(range(256)) - set(_KEPT))


class JsonText:
    """Reads a file behind its byte order mark, which a JSON parser does not know."""

    def __init__(self, data: BufferedReader) -> None:
        self._data = data
        self._data.seek(len(_BOM) if data.peek(len(_BOM)).startswith(_BOM) else 0)
        self._depth = 0
        self._is_in_text = False
        self._escape = b""
        self._end = b""

    def tell(self) -> int:
        """Where the next read begins."""
        return self._data.tell()

    def read(self, size: int = -1) -> bytes:
        """Read at most that many bytes.

        Raises:
            ValueError: what has been read is nested deeper than MAX_DEPTH (some up to three times
                as deep still pass), or has a number that is too long.
            StorageError: the store refuses.
        """
        block = self._data.read(size)
        if self._deepest(self._brackets(block)) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        digits = self._end + block.translate(_TO_NINES)
        if _LONG_NUMBER in digits:
            raise ValueError(f"it has a number of more than {_MAX_DIGITS:,} digits")
        self._end = digits[-_MAX_DIGITS:]
        return block

    def _brackets(self, block: bytes) -> bytes:
        """Give the brackets of a block that are not within texts."""
        block = self._escape + block
        num_backslashes = len(block) - len(block.rstrip(b"\\"))
        self._escape = b"\\" * (num_backslashes % 2)  # of what comes with the next block
        block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = block.translate(None, _DROPPED).split(b'"')
        outside = b"".join(pieces[self._is_in_text :: 2])
        self._is_in_text ^= len(pieces) % 2 == 0
        return outside

    def _deepest(self, brackets: bytes) -> int:
        """Count brackets in, and tell how deep they are nested at the least: a third of it all."""
        for inner in range(MAX_DEPTH + 1):
            left = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(left) == len(brackets):
                num_open = left.count(b"[") + left.count(b"{")
                self._depth += 2 * num_open - len(left)
                return max(inner, num_open, self._depth)
            brackets = left
        return MAX_DEPTH + 1


T = TypeVar("T")

_LOCAL_BLOCK_BYTES = 262_144
# On S3, a request takes about as long as 2 MB: so what is seldom wanted is skipped in larger steps.
_REMOTE_BLOCK_BYTES = 4_194_304
_LINE_CHARS = 67_108_864
# RecursionError: a line of JSON nested a thousand deep. OSError: Arrow's, of a page that does not
# decompress; a store's own would be a StorageError.
_MALFORMED = (csv.Error, ijson.JSONError, pa.ArrowException, ValueError, RecursionError, OSError)
_END = "\0end of file\0"


class _BlockFile(RangedFile):
    """A RangedFile that BufferedReader can read."""

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationFile:
    """A file that says something of images; not opened yet."""

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
    def folder(self) -> str:
        """The address of the folder that it is in, without a trailing slash."""
        return self.uri.rpartition("/")[0]

    def stands(self) -> bool:
        """Whether there is such a file."""
        try:
            self.store.read_range(self.key, 0, 1)
        except ObjectNotFound:
            return False
        return True

    def open(self) -> BufferedReader:
        """Open it to read and to seek; holds one block of it.

        Raises:
            ObjectNotFound: nothing stands there.
            StorageError: it cannot be read, now or when it is read on.
        """
        is_local = isinstance(self.store, LocalStore)
        block_bytes = _LOCAL_BLOCK_BYTES if is_local else _REMOTE_BLOCK_BYTES
        size = self.store.size(self.key)
        return BufferedReader(_BlockFile(self.store, self.key, size), block_bytes)


def read_lines(file: AnnotationFile, newline: str = "\n") -> Iterator[str]:
    """Yield a text file's lines with their ends; `newline` is that of `open`.

    What is not UTF-8 becomes lone surrogates: one such caption among millions does not end all.

    Raises:
        DatasetError: a line that is too long to be one.
    """
    text = TextIOWrapper(file.open(), "utf-8-sig", errors="surrogateescape", newline=newline)
    with text:
        number = 0
        while line := text.readline(_LINE_CHARS):
            number += 1
            if len(line) == _LINE_CHARS and line[-1] not in "\r\n":
                raise DatasetError(
                    f"{file.uri}: line {number} is longer than {_LINE_CHARS:,} characters; "
                    "this is no file of lines"
                )
            yield line


def read_csv(file: AnnotationFile, delimiter: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file, the header too, that are not empty.

    Raises:
        csv.Error: a field is longer than 131,072 characters, or its quote is never closed, which
            would make one caption of all that follows.
    """
    lines = chain(read_lines(file, newline=""), [_END])
    rows = csv.reader(lines, delimiter=delimiter)
    begins = 1
    for row in rows:
        if row == [_END]:
            return
        if row and row[-1].endswith(_END):
            raise csv.Error(f"a quote in the row that begins in line {begins} is not closed")
        if row:
            yield row
        begins = rows.line_num + 1


def guarded(
    file: AnnotationFile, kind: str, items: Iterable[T], data: JsonText | None = None
) -> Iterator[T]:
    """Yield what a parser yields, and turn its complaint into ours.

    Args:
        file: what is parsed.
        kind: as what.
        items: the parser's; its rows, where `data` is None.
        data: what the parser reads from, if it tells no rows.

    Raises:
        DatasetError: it cannot be parsed any further; says where, and why.
    """
    remaining = iter(items)
    number = 1
    while True:
        try:
            item = next(remaining)
        except StopIteration:
            return
        except _MALFORMED as error:
            place = f"before byte {data.tell() + 1:,}" if data else f"at row {number}"
            reason = " ".join(str(error).split())
            raise DatasetError(
                f"{file.uri}: {place}: cannot be read as {kind}: {reason}"
            ) from error
        yield item
        number += 1


def paged(items: Iterable[T], num_items: int) -> Iterator[list[T]]:
    """Gather items into lists of at most that many."""
    remaining = iter(items)
    while page := list(islice(remaining, num_items)):
        yield page


def list_files(store: Store, suffixes: tuple[str, ...]) -> Iterator[AnnotationFile]:
    """Yield the files of a folder, and of those within it, that have such a suffix."""
    for table in store.list():
        for key in table[KEY].to_pylist():
            file = AnnotationFile(store=store, key=key)
            if file.name.lower().endswith(suffixes) and not file.name.startswith("."):
                yield file
