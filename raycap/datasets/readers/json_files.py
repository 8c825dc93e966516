"""JSON files of annotations: parsed as a stream, and guarded against input that breaks the parser.

ijson keeps the path of every open list, so a file of 200,000 brackets would take 100 GB. A number
longer than Python's limit of 4,300 digits would end the process.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from io import BufferedReader
from itertools import islice
from typing import Any

import ijson

from raycap.datasets.readers.base import JSON_FOLDER, Folder
from raycap.datasets.readers.files import AnnotationFile, guarded

IMAGES = "images"
ANNOTATIONS = "annotations"
_NUM_EVENTS = 1_000_000  # a large file of something else is not searched any further
_NUM_FILES_OPENED = 100

MAX_DEPTH = 100
"""Nested lists and objects; annotations have three or four."""

_MAX_DIGITS = 4_000
_TO_NINES = bytes.maketrans(b"012345678", b"9" * 9)
_LONG_NUMBER = b"9" * (_MAX_DIGITS + 1)
_NO_JSON = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|(NaN|-?Infinity)', re.DOTALL)
_REST_OF_TEXT = re.compile(rb'(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BEGUN = re.compile(rb"(?:(?<!Na)N|Na|-|-?I|-?In|-?Inf|-?Infi|-?Infin|-?Infini|-?Infinit)\Z")
_BOM = b"\xef\xbb\xbf"
_KEPT = b'"[]{}'
_DROPPED = bytes(set(range(256)) - set(_KEPT))


class JsonText:
    """A file after its byte order mark, as a JSON parser reads it.

    `NaN` and `Infinity`, which Python writes and JSON does not have, become `null`.
    """

    def __init__(self, data: BufferedReader) -> None:
        self._data = data
        self._is_begun = False
        self._depth = 0
        self._is_in_text = False
        self._escape = b""
        self._end = b""
        self._held = b""

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._data.tell()

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes.

        Raises:
            ValueError: the text so far is nested deeper than MAX_DEPTH (some text up to three
                times as deep passes), or has a number that is too long.
            StorageError: the store refuses.
        """
        if not self._is_begun:  # here, where errors of a damaged file are expected
            self._is_begun = True
            if self._data.peek(len(_BOM)).startswith(_BOM):
                self._data.read(len(_BOM))
        while True:
            block = self._data.read(size)
            is_in_text, is_escaped = self._is_in_text, bool(self._escape)
            self._check(block)
            is_end = not block and size != 0
            block = self._held + block
            begun = None if is_end else _BEGUN.search(block[-len(b"-Infinit") :])
            self._held = begun[0] if begun else b""
            block = block.removesuffix(self._held)
            if block or is_end or size == 0:
                return _without_nan(block, is_in_text=is_in_text, is_escaped=is_escaped)

    def _check(self, block: bytes) -> None:
        if self._deepest(self._brackets(block)) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        digits = self._end + block.translate(_TO_NINES)
        if _LONG_NUMBER in digits:
            raise ValueError(f"it has a number of more than {_MAX_DIGITS:,} digits")
        self._end = digits[-_MAX_DIGITS:]

    def _brackets(self, block: bytes) -> bytes:
        """Return the brackets of a block that are outside strings."""
        block = self._escape + block
        num_backslashes = len(block) - len(block.rstrip(b"\\"))
        self._escape = b"\\" * (num_backslashes % 2)  # escapes the next block
        block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = block.translate(None, _DROPPED).split(b'"')
        outside = b"".join(pieces[self._is_in_text :: 2])
        self._is_in_text ^= len(pieces) % 2 == 0
        return outside

    def _deepest(self, brackets: bytes) -> int:
        """Count brackets; return a lower bound of the depth: at least a third of it."""
        for inner in range(MAX_DEPTH + 1):
            left = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(left) == len(brackets):
                num_open = left.count(b"[") + left.count(b"{")
                self._depth += 2 * num_open - len(left)
                return max(inner, num_open, self._depth)
            brackets = left
        return MAX_DEPTH + 1


def _without_nan(block: bytes, *, is_in_text: bool, is_escaped: bool) -> bytes:
    if b"NaN" not in block and b"Infinity" not in block:
        return block
    start = int(is_escaped)
    if is_in_text and (text := _REST_OF_TEXT.match(block, start)):
        start = text.end()
    rest = _NO_JSON.sub(lambda found: b"null" if found[1] else found[0], block[start:])
    return block[:start] + rest


class JsonKind(StrEnum):
    """Form of a JSON file of captions."""

    COCO = "coco"
    """An object with `annotations`, or with `images` that have a `file_name`."""
    KARPATHY = "karpathy"
    """An object with `images` that have `sentences`."""
    LIST = "list"
    """A list."""


_KIND_OF_FIELD = {
    "file_name": JsonKind.COCO,
    "coco_url": JsonKind.COCO,
    "id": JsonKind.COCO,
    "sentences": JsonKind.KARPATHY,
    "sentids": JsonKind.KARPATHY,
    "filename": JsonKind.KARPATHY,
}


def json_kind(file: AnnotationFile) -> JsonKind | None:
    """Return the form of a JSON file, by its beginning; None if it contains no captions.

    Raises:
        DatasetError: it is not JSON.
    """
    has_images = False
    with file.open_text() as data:
        text = JsonText(data)
        events = islice(ijson.parse(text), _NUM_EVENTS)
        for prefix, event, value in guarded(file, "JSON", events, text.tell):
            if not prefix and event == "start_array":
                return JsonKind.LIST
            if not prefix and event == "map_key" and value == ANNOTATIONS:
                return JsonKind.COCO
            if prefix == f"{IMAGES}.item" and event == "map_key" and value in _KIND_OF_FIELD:
                return _KIND_OF_FIELD[value]
            has_images = has_images or prefix == IMAGES
    return JsonKind.COCO if has_images else None


def read_items(file: AnnotationFile, prefix: str) -> Iterator[Any]:
    """Yield the items of a list in a JSON file; `prefix` as ijson has it, such as `images.item`.

    Raises:
        DatasetError: the file cannot be parsed any further.
    """
    with file.open_text() as data:
        text = JsonText(data)
        items = ijson.items(text, prefix, use_float=True)
        yield from guarded(file, "JSON", items, text.tell)


def find_json(folder: Folder, kind: JsonKind) -> list[AnnotationFile] | None:
    """Find the JSON files of a form in a folder or its `annotations/`; None if there are none.

    Of several, those named after captions: COCO's others are for other tasks.

    Raises:
        DatasetError: one of the JSON files cannot be parsed.
    """
    files = [
        AnnotationFile(store=folder.store, key=key)
        for key in folder.keys
        if key.lower().endswith(".json") and "/" not in key.removeprefix(JSON_FOLDER)
    ]
    found = [file for file in files[:_NUM_FILES_OPENED] if json_kind(file) == kind]
    return [file for file in found if "caption" in file.name.lower()] or found or None


def is_json(file: AnnotationFile, kind: JsonKind) -> bool:
    """Return whether a file is JSON of a form.

    Raises:
        DatasetError: it is named `.json`, but cannot be parsed.
    """
    return file.suffix == ".json" and json_kind(file) == kind
