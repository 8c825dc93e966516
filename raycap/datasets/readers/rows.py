"""Rows of annotations: what counts as text, as an id and as a split, and tables made of them."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.files import AnnotationFile, list_files, paged
from raycap.datasets.splits import known_word, split_in_name
from raycap.errors import DatasetError
from raycap.storage.base import Store

_PAGE_ROWS = 8_192


def tables_of(rows: Iterable[AnnotationRow]) -> Iterator[pa.Table]:
    """Gather rows into ANNOTATIONS tables."""
    types = schema.ANNOTATIONS.types
    for page in paged(rows, _PAGE_ROWS):
        columns = zip(*page, strict=True)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        yield pa.table(arrays, schema=schema.ANNOTATIONS)


def text_of(value: Any) -> str | None:
    """Give a value if it is text that a table can hold: no lone surrogates of broken encodings."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def captions_of(value: Any) -> list[str | None]:
    """Give the captions of an image: of one text, or of a list of texts; None for what is none."""
    if isinstance(value, list):
        return [text_of(item) for item in value] or [None]
    return [text_of(value)]


def id_of(value: Any) -> str | None:
    """Give an id as text: text that is not empty, or a whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value) or None


def unnamed(file: AnnotationFile, number: int, what: str = "row") -> str:
    """Name what has no name of its own, so that it is rejected and not lost."""
    return f"({what} {number} of {file.name})"


def split_of(value: Any, file: AnnotationFile, number: int) -> str | None:
    """Give the split that a row names; None where it names none.

    Raises:
        DatasetError: it is none that raycap knows.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    split = known_word(value) if isinstance(value, str) else None
    if split is None:
        raise DatasetError(
            f"{file.uri}: row {number} has the split {value!r}; allowed are train (training, "
            "restval), validation (val, valid, dev), test (testing) or none at all"
        )
    return split


def files_with_splits(store: Store, suffix: str) -> Iterator[tuple[AnnotationFile, str | None]]:
    """Yield the files of a folder that have a suffix, with the split that each is named after.

    Only if all of them are named after splits; otherwise with none.

    Raises:
        DatasetError: there are no such files.
    """
    are_split, is_empty = True, True
    for file in list_files(store, (suffix,)):
        are_split, is_empty = are_split and split_in_name(file.key) is not None, False
    if is_empty:
        raise DatasetError(f"{store.uri}: holds no {suffix} files")
    for file in list_files(store, (suffix,)):
        yield file, split_in_name(file.key) if are_split else None
