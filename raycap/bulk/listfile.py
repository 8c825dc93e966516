"""List files: addresses of images as text, CSV, JSON Lines or Parquet."""

import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raycap.config import StorageConfig
from raycap.errors import DatasetError
from raycap.schema import IMAGE_ID, MANIFEST, URI
from raycap.storage.address import redact, scheme_of
from raycap.storage.stores import open_store

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
    except (pa.ArrowException, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{source}: cannot be read as {suffix[1:]}: {error}") from error
    except KeyError as error:
        raise DatasetError(
            f"{source}: has no column {error}; name the column of addresses '{URI}'"
        ) from error


_Page = tuple[list[str | None], list[str | None] | None]


def _page(
    source: str, base: str, uris: list[str | None], ids: list[str | None] | None, row: int
) -> pa.Table:
    absolute = []
    for number, uri in enumerate(uris, start=row + 1):
        if not uri or not isinstance(uri, str):
            raise DatasetError(f"{source}: row {number} has no address in '{URI}'")
        is_relative = scheme_of(uri) == "" and not uri.startswith("/")
        absolute.append(f"{base}/{uri}" if is_relative else uri)
    names = [
        str(name) if name is not None else redact(str(uri))
        for name, uri in zip(ids or [None] * len(uris), uris, strict=True)
    ]
    unknown = pa.nulls(len(names))
    columns = [pa.array(names), pa.array(absolute), unknown, unknown]
    arrays = [column.cast(f.type) for column, f in zip(columns, MANIFEST, strict=True)]
    return pa.table(arrays, schema=MANIFEST)


def _open(source: str, config: StorageConfig) -> BinaryIO:
    if scheme_of(source) in ("", "file"):
        return open(source.removeprefix("file://"), "rb")
    folder, _, name = source.rpartition("/")
    return io.BytesIO(open_store(folder, config).read(name))


def _read_text(file: BinaryIO) -> Iterator[_Page]:
    lines: list[str | None] = []
    for line in io.TextIOWrapper(file, encoding="utf-8-sig"):
        if text := line.strip():
            lines.append(text)
        if len(lines) == _PAGE_ROWS:
            yield lines, None
            lines = []
    if lines:
        yield lines, None


def _read_json_lines(file: BinaryIO) -> Iterator[_Page]:
    rows: list[dict[str, Any]] = []
    for line in file:
        if line.strip():
            rows.append(json.loads(line))
        if len(rows) == _PAGE_ROWS:
            yield _columns_of(rows)
            rows = []
    if rows:
        yield _columns_of(rows)


def _columns_of(rows: list[dict[str, Any]]) -> _Page:
    return [row[URI] for row in rows], [row.get(IMAGE_ID) for row in rows]


def _read_csv(file: BinaryIO) -> Iterator[_Page]:
    # Everything is text here: an id such as 000042 must keep its zeros.
    convert = pyarrow.csv.ConvertOptions(
        column_types={URI: pa.string(), IMAGE_ID: pa.string()}, strings_can_be_null=True
    )
    for batch in pyarrow.csv.open_csv(file, convert_options=convert):
        yield _columns(batch)


def _read_parquet(file: BinaryIO) -> Iterator[_Page]:
    parquet = pq.ParquetFile(file)
    wanted = [name for name in (URI, IMAGE_ID) if name in parquet.schema_arrow.names]
    if URI not in wanted:
        raise KeyError(URI)
    for batch in parquet.iter_batches(batch_size=_PAGE_ROWS, columns=wanted):
        yield _columns(batch)


def _columns(batch: pa.RecordBatch) -> _Page:
    names = batch.schema.names
    if URI not in names:
        raise KeyError(URI)
    ids = batch.column(IMAGE_ID).cast(pa.string()).to_pylist() if IMAGE_ID in names else None
    return batch.column(URI).to_pylist(), ids


_READERS: dict[str, Callable[[BinaryIO], Iterator[_Page]]] = {
    ".txt": _read_text,
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
LIST_SUFFIXES = tuple(_READERS)
"""Sources with these suffixes are lists."""
