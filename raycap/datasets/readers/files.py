"""Annotation files: opened in any store, read block by block, never held in memory whole."""

import codecs
import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader, RawIOBase, TextIOWrapper
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
_MALFORMED = (
    *(csv.Error, ijson.JSONError, pa.ArrowException, ValueError, RecursionError, OSError),
    *(EOFError, zlib.error),  # of gzip
)
_GZIP_SUFFIX = ".gz"
_GZIP = b"\x1f\x8b"
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NUM_PEEKED = 64
NOT_UTF8 = (
    "it is not UTF-8; save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`"
)
"""Why text cannot be read, and what to do."""


class _Transcoded(RawIOBase):
    """Text of another encoding as UTF-8; it cannot seek."""

    def __init__(self, data: BufferedReader, encoding: str) -> None:
        super().__init__()
        self._data = data
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._num_read = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._num_read

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            block = self._data.read(_LOCAL_BLOCK_BYTES)
            self._left = self._decoder.decode(block, final=not block).encode()
            if not block:
                break
        data = self._left[: len(buffer)]
        self._left = self._left[len(buffer) :]
        buffer[: len(data)] = data
        self._num_read += len(data)
        return len(data)

    def close(self) -> None:
        self._data.close()
        super().close()


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
        """Its suffix in lower case, such as `.json`; of `a.json.gz` too."""
        return os.path.splitext(self.name.lower().removesuffix(_GZIP_SUFFIX))[1]

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
        return BufferedReader(RangedFile(self.store, self.key, size), block_bytes)

    def open_text(self) -> BufferedReader:
        """Open a text as UTF-8, with or without its mark: decompressed, and of any marked encoding.

        Raises:
            DatasetError: it is UTF-16 without a mark, or begins as gzip does and is none.
            StorageError: as `open`.
        """
        data = self.open()
        if data.peek(len(_GZIP)).startswith(_GZIP):
            unzipped: Any = gzip.GzipFile(fileobj=data)
            data = BufferedReader(unzipped, _LOCAL_BLOCK_BYTES)
            self._check_unpacks(data)
        head = _peek(data)
        for mark, encoding in _ENCODINGS.items():
            if head.startswith(mark):
                return BufferedReader(_Transcoded(data, encoding), _LOCAL_BLOCK_BYTES)
        if head.count(0) * 4 >= max(4, len(head)):
            data.close()
            raise DatasetError(
                f"{self.uri}: is no UTF-8; if it is UTF-16, save it with a byte order mark, or as "
                "UTF-8",
                uri=self.uri,
            )
        return data

    def _check_unpacks(self, data: BufferedReader) -> None:
        """Raise DatasetError if not even the beginning of a gzip file can be unpacked."""
        try:
            data.peek(1)
        except (OSError, EOFError, zlib.error) as error:
            data.close()
            raise DatasetError(
                f"{self.uri}: begins as gzip does, but cannot be unpacked ({error}); replace it by "
                "an undamaged file",
                uri=self.uri,
            ) from error


def decoded(text: bytes) -> str:
    """Decode a text as `open_text` does. Raises UnicodeError if it is of no known encoding."""
    for mark, encoding in _ENCODINGS.items():
        if text.startswith(mark):
            return text.decode(encoding)
    found = text.decode("utf-8-sig")
    if found.count("\0") * 4 >= max(4, len(found)):
        raise UnicodeError("UTF-16 without a mark")
    return found


def _peek(data: BufferedReader) -> bytes:
    try:
        return data.peek(_NUM_PEEKED)[:_NUM_PEEKED]
    except (OSError, EOFError, zlib.error):
        return b""  # damaged gzip, which the parser reports


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
        file: the file, as `open_text` opens it.
        newline: as of `open`.
        is_strict: raise at bytes that are not UTF-8. By default they become lone surrogates, so
            that one broken caption among millions does not end everything.

    Raises:
        DatasetError: a line is longer than 67,108,864 characters.
        UnicodeDecodeError: bytes are not UTF-8 and `is_strict`.
    """
    errors = "strict" if is_strict else "surrogateescape"
    with TextIOWrapper(file.open_text(), "utf-8-sig", errors=errors, newline=newline) as text:
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
            raise DatasetError(
                f"{file.uri}: {place}: cannot be read as {kind}: {reason_of(error)}", uri=file.uri
            ) from error
        yield item
        number += 1


def reason_of(error: Exception) -> str:
    """Return why a text cannot be parsed, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return NOT_UTF8
    if isinstance(error, json.JSONDecodeError):  # it counts lines within the parsed line
        return f"{error.msg} at character {error.pos + 1}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())


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
