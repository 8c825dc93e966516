"""List files: addresses of images as text, CSV, JSON Lines or Parquet."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.config import StorageConfig
from raycap.errors import DatasetError, StorageError
from raycap.schema import IMAGE_ID, MANIFEST, URI
from raycap.storage.address import Address, redact
from raycap.storage.stores import open_store

T = TypeVar("T")

_PAGE_ROWS = 65_536


def read_list(source: str, config: StorageConfig) -> Iterator[pa.Table]:
    """Read a list file as MANIFEST tables in file order; sizes and ETags are not known.

    A column `image_id` names the images where there is one, otherwise the address does (without
    what is secret of it). Relative paths are relative to the list's folder.

    Raises:
        DatasetError: no column `uri`, an empty address, or a file that cannot be parsed.
    """
    suffix = os.path.splitext(source)[1].lower()
    base = source.rpartition("/")[0]
    row = 0
    try:
        with _open(source, config) as file:
            for uris, ids in _READERS[suffix](file):
                yield _page(source, base, uris, ids, row)
                row += len(uris)
    except (pa.ArrowException, csv.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{source}: cannot be read as {suffix[1:]}: {reason}") from error
    except KeyError as error:
        raise DatasetError(
            f"{source}: has no column {error}; name the column of addresses '{URI}'"
        ) from error
    except OSError as error:
        raise StorageError(f"{source}: {error.strerror or error}") from error


_File = io.BufferedReader | io.BytesIO
_Page = tuple[list[Any], list[Any] | None]


def _page(source: str, base: str, uris: list[Any], ids: list[Any] | None, row: int) -> pa.Table:
    absolute = []
    for number, uri in enumerate(uris, start=row + 1):
        if not uri or not isinstance(uri, str):
            raise DatasetError(f"{source}: row {number} has no address in '{URI}'")
        absolute.append(uri if Address.parse(uri).is_absolute else f"{base}/{uri}")
    names = [
        redact(str(uri)) if name is None or name == "" else str(name)
        for name, uri in zip(ids or [None] * len(uris), uris, strict=True)
    ]
    unknown = pa.nulls(len(names))
    columns = [pa.array(names), pa.array(absolute), unknown, unknown]
    arrays = [column.cast(f.type) for column, f in zip(columns, MANIFEST, strict=True)]
    return pa.table(arrays, schema=MANIFEST)


def _open(source: str, config: StorageConfig) -> _File:
    address = Address.parse(source)
    if address.is_local:
        return open(address.path, "rb")
    folder, _, name = source.rpartition("/")
    return io.BytesIO(open_store(folder, config).read(name))


def _read_text(file: _File) -> Iterator[_Page]:
    with _text(file) as lines:
        for page in _paged(text for line in lines if (text := line.strip())):
            yield page, None


def _read_json_lines(file: _File) -> Iterator[_Page]:
    with _text(file) as lines:
        for page in _paged(line for line in lines if line.strip()):
            rows = [json.loads(line) for line in page]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError('a line is not an object, such as {"uri": "a.jpg"}')
            yield [row.get(URI) for row in rows], [row.get(IMAGE_ID) for row in rows]


def _read_csv(file: _File) -> Iterator[_Page]:
    # Everything is text here: an id such as 000042 must keep its zeros.
    with _text(file) as lines:
        rows = csv.reader(lines, strict=True)
        header = next(rows, [])
        if URI not in header:
            raise KeyError(URI)
        for page in _paged(row for row in rows if row):
            for row in page:
                if len(row) != len(header):
                    first = redact(row[0])  # not all: a signature may be in it
                    raise ValueError(
                        f"{len(row)} fields instead of {len(header)}, the first: {first}"
                    )
            columns = dict(zip(header, zip(*page, strict=True), strict=True))
            yield list(columns[URI]), list(columns[IMAGE_ID]) if IMAGE_ID in columns else None


def _text(file: _File) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _paged(items: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while page := list(islice(remaining, _PAGE_ROWS)):
        yield page


def _read_parquet(file: _File) -> Iterator[_Page]:
    parquet = pq.ParquetFile(file)
    wanted = [name for name in (URI, IMAGE_ID) if name in parquet.schema_arrow.names]
    if URI not in wanted:
        raise KeyError(URI)
    for batch in parquet.iter_batches(batch_size=_PAGE_ROWS, columns=wanted):
        ids = batch.column(IMAGE_ID).cast(pa.string()).to_pylist() if IMAGE_ID in wanted else None
        yield batch.column(URI).to_pylist(), ids


_READERS: dict[str, Callable[[_File], Iterator[_Page]]] = {
    ".txt": _read_text,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
LIST_SUFFIXES = tuple(_READERS)
"""Sources with these suffixes are lists."""
