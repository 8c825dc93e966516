"""List files: addresses of images as text, CSV, JSON Lines or Parquet."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.readers.files import AnnotationFile, guarded, open_file, paged, read_lines
from raycap.datasets.readers.image_folders import is_absolute
from raycap.datasets.readers.rows import text_of
from raycap.datasets.readers.table_rows import Row, read_rows
from raycap.errors import DatasetError
from raycap.schema import IMAGE_ID, MANIFEST, URI
from raycap.storage.address import redact

LIST_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
"""Sources with these suffixes are lists."""

_PAGE_ROWS = 65_536


def read_list(source: str, config: StorageConfig) -> Iterator[pa.Table]:
    """Read a list file as MANIFEST tables in file order, with unknown sizes and ETags.

    The id of an image is its `image_id`, if there is such a column and it is not empty, and its
    address without secrets otherwise. Relative paths are relative to the list's folder.

    Raises:
        DatasetError: no column `uri`, an empty address, or a file that cannot be parsed.
        StorageError: the file cannot be read.
    """
    file = open_file(source, config)
    images = (_image(file, row, number) for number, row in enumerate(_rows(file), start=1))
    for page in paged(images, _PAGE_ROWS):
        yield _table(page)


def _rows(file: AnnotationFile) -> Iterator[Row]:
    if file.suffix == ".txt":
        lines = (line.strip() for line in read_lines(file, newline="", is_strict=True))
        return guarded(file, "txt", ({URI: line} for line in lines if line))
    return read_rows(file, choose_columns=lambda columns: _choose(file, columns), is_strict=True)


def _choose(file: AnnotationFile, columns: pa.Schema) -> list[str]:
    if URI not in columns.names:
        raise DatasetError(
            f"{file.uri}: has no column '{URI}'; name the column of addresses '{URI}'", uri=file.uri
        )
    return [name for name in (URI, IMAGE_ID) if name in columns.names]


def _image(file: AnnotationFile, row: Row, number: int) -> tuple[str, str]:
    """Return a row's image id and absolute address."""
    uri = text_of(row.get(URI))
    if not uri:
        raise DatasetError(f"{file.uri}: row {number} has no address in '{URI}'", uri=file.uri)
    name = _id(file, row.get(IMAGE_ID), number) or redact(uri)
    return name, uri if is_absolute(uri) else f"{file.folder}/{uri}"


def _id(file: AnnotationFile, value: Any, number: int) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):  # text in Parquet files that do not mark it as such
        value = value.decode(errors="surrogateescape")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = None if isinstance(value, list | dict) else text_of(str(value))
    if found is None:
        raise DatasetError(
            f"{file.uri}: row {number} has an {IMAGE_ID} that is not text", uri=file.uri
        )
    return found


def _table(images: list[tuple[str, str]]) -> pa.Table:
    names, uris = zip(*images, strict=True)
    unknown = pa.nulls(len(images))
    columns = [pa.array(names), pa.array(uris), unknown, unknown]
    arrays = [column.cast(f.type) for column, f in zip(columns, MANIFEST, strict=True)]
    return pa.table(arrays, schema=MANIFEST)
