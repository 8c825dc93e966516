"""Export to `metadata.jsonl` beside images, as `datasets.load_dataset("imagefolder")` reads it.

Rows are gathered in a scratch table, in which they are ordered by folder and joined to the lines
that exist already, so that memory grows with neither.
"""

import codecs
import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from functools import partial
from itertools import compress, groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import pyarrow as pa

from raycap.config import Existing, Layout
from raycap.datasets.readers.files import AnnotationFile, paged
from raycap.errors import ConfigError, DatasetError
from raycap.exporting.columns import Column
from raycap.exporting.destination import exists, open_folder, refuse, staged
from raycap.exporting.formats import captioned
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.names import safe_path
from raycap.exporting.selection import Selection, renamed
from raycap.exporting.values import as_json, plain_rows
from raycap.parsing import parse_json
from raycap.results.captioning import ExportCounts
from raycap.schema import CAPTION, IMAGE_ID, STATUS
from raycap.scratch import scratch_database
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map

if TYPE_CHECKING:
    import duckdb

NAME = "metadata.jsonl"
FILE_NAME = "file_name"
_DEFAULT = (Column(name="text", path=(CAPTION,)),)

_MEMORY_BYTES = 512_000_000
_PAGE_ROWS = 8_192
_LINE_BYTES = 67_108_864
_OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)

_ROWS = pa.schema(
    [
        pa.field("folder", pa.string()),
        pa.field("name", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("line", pa.string()),
    ]
)
"""An image to write: its line as JSON, without its end."""
_STANDING = pa.schema(
    [
        pa.field("folder", pa.string()),
        pa.field("name", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("line", pa.binary()),
    ]
)
"""A line that exists, with its end; its name is null if it names no image."""

_MERGED = """
    SELECT coalesce(standing.folder, rows.folder) AS folder, standing.line AS there, rows.line
    FROM standing FULL JOIN rows
        ON standing.folder = rows.folder AND standing.name = rows.name
    ORDER BY 1, standing.position NULLS LAST, rows.position
"""


class _Outcome(Enum):
    """What became of a line."""

    WRITTEN = auto()
    KEPT = auto()
    OTHER = auto()
    """It is of no image of the export."""


def _export_metadata(job: ExportJob) -> ExportCounts:
    columns = _checked(job.rows.chosen or _DEFAULT)
    store = open_folder(job.destination, job.rows.config)
    with scratch_database(_MEMORY_BYTES) as database:
        _create(database, "rows", _ROWS)
        _create(database, "standing", _STANDING)
        is_split = job.layout is Layout.FOLDER
        num_captioned = 0
        for page in _row_pages(job.rows, columns, is_split=is_split):
            _insert(database, "rows", page)
            num_captioned += len(page)
        num_skipped = _load_standing(database, store, job)
        outcomes: Counter[_Outcome] = Counter()
        num_files = 0
        write = partial(_write_file, store, job.existing, outcomes)
        for folder, lines in groupby(_merged(database), itemgetter(0)):
            write(folder, lines)
            num_files += 1
    return ExportCounts(
        num_exported=outcomes[_Outcome.WRITTEN],
        num_failed_skipped=job.rows.num_images - num_captioned,
        num_files=num_files,
        num_kept=outcomes[_Outcome.KEPT] + num_skipped,
    )


def _checked(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    if any(column.name == FILE_NAME for column in columns):
        raise ConfigError(
            f"--columns: {FILE_NAME} is the name of the image in {NAME}; leave it out, or rename "
            "the column",
            setting="columns",
        )
    return columns


def _create(database: "duckdb.DuckDBPyConnection", name: str, columns: pa.Schema) -> None:
    database.register("page", columns.empty_table())
    database.execute(f"CREATE TABLE {name} AS SELECT * FROM page")
    database.unregister("page")


def _insert(database: "duckdb.DuckDBPyConnection", name: str, page: pa.Table) -> None:
    database.register("page", page)
    database.execute(f"INSERT INTO {name} SELECT * FROM page")
    database.unregister("page")


def _row_pages(
    rows: Selection, columns: tuple[Column, ...], *, is_split: bool
) -> Iterator[pa.Table]:
    needed = dict.fromkeys([IMAGE_ID, STATUS, *(column.path[0] for column in columns)])
    position = 0
    for page in rows.pages(list(needed)):
        table = captioned(page)
        found = []
        values = plain_rows(renamed(table, columns))
        for image_id, row in zip(table[IMAGE_ID].to_pylist(), values, strict=True):
            folder, name = posixpath.split(_path(image_id)) if is_split else ("", _path(image_id))
            found.append((folder, name, position, as_json({FILE_NAME: name, **row})))
            position += 1
        if found:
            yield _page(found, _ROWS)


def _page(rows: Sequence[tuple[object, ...]], kind: pa.Schema) -> pa.Table:
    arrays = zip(zip(*rows, strict=True), kind.types, strict=True)
    return pa.table([pa.array(column, type) for column, type in arrays], schema=kind)


def _path(image_id: str) -> str:
    """Return the path of an image in its folder; it cannot lead out of it."""
    is_inside = not {"", ".", ".."} & set(image_id.split("/")) and "\0" not in image_id
    return image_id if is_inside else safe_path(image_id)


def _key(folder: str) -> str:
    return f"{folder}/{NAME}" if folder else NAME


def _load_standing(database: "duckdb.DuckDBPyConnection", store: Store, job: ExportJob) -> int:
    """Load the lines that are to be kept; return how many images are left out, as files are kept.

    Raises:
        ConfigError: files exist and are to be refused.
    """
    if job.existing is Existing.OVERWRITE:
        return 0
    found = database.execute("SELECT DISTINCT folder FROM rows ORDER BY folder").fetchall()
    folders = [folder for (folder,) in found]
    is_there = ordered_map(
        lambda folder: exists(store, _key(folder)), folders, job.rows.config.list_threads
    )
    standing = list(compress(folders, is_there))
    if job.existing is Existing.REFUSE:
        refuse(store, map(_key, standing))
    if job.existing is Existing.SKIP:
        _create(database, "skipped", pa.schema([pa.field("folder", pa.string())]))
        _insert(database, "skipped", pa.table({"folder": pa.array(standing, pa.string())}))
        before = _num_rows(database)
        database.execute("DELETE FROM rows WHERE folder IN (SELECT folder FROM skipped)")
        return before - _num_rows(database)
    for folder in standing:
        for page in paged(_standing_lines(store, folder), _PAGE_ROWS):
            _insert(database, "standing", _page(page, _STANDING))
    return 0


def _num_rows(database: "duckdb.DuckDBPyConnection") -> int:
    ((count,),) = database.execute("SELECT count(*) FROM rows").fetchall()
    return int(count)


def _standing_lines(store: Store, folder: str) -> Iterator[tuple[object, ...]]:
    file = AnnotationFile(store=store, key=_key(folder))
    with file.open() as data:
        if data.peek(4).startswith(_OTHER_MARKS):
            raise DatasetError(
                f"{file.uri}: is not UTF-8, so that nothing can be added to it; save it as UTF-8",
                uri=file.uri,
            )
        position = 0
        while line := data.readline(_LINE_BYTES):
            if len(line) == _LINE_BYTES:
                raise DatasetError(
                    f"{file.uri}: line {position + 1} is longer than {_LINE_BYTES:,} bytes; this "
                    "is not a file of lines",
                    uri=file.uri,
                )
            yield folder, _name_in(line), position, line
            position += 1


def _name_in(line: bytes) -> str | None:
    """Return the image that a line names; None if it names none."""
    try:
        row = parse_json(line.decode("utf-8-sig"))
        name = row.get(FILE_NAME) if isinstance(row, dict) else None
        if not isinstance(name, str):
            return None
        name.encode()  # not a lone surrogate
    except ValueError:
        return None
    return name.removeprefix("./")


def _merged(
    database: "duckdb.DuckDBPyConnection",
) -> Iterator[tuple[str, bytes | None, str | None]]:
    """Yield the folder, the line that exists and the line to write, in the order of the files."""
    for batch in database.sql(_MERGED).to_arrow_reader(_PAGE_ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _write_file(
    store: Store,
    existing: Existing,
    outcomes: Counter[_Outcome],
    folder: str,
    lines: Iterator[tuple[str, bytes | None, str | None]],
) -> None:
    with staged(store, _key(folder)) as file:
        for _, there, line in lines:
            data, outcome = _merge(there, line, existing)
            outcomes[outcome] += 1
            file.write(data if data.endswith(b"\n") else data + b"\n")


def _merge(there: bytes | None, line: str | None, existing: Existing) -> tuple[bytes, _Outcome]:
    if there is None:
        return (line or "").encode(), _Outcome.WRITTEN
    if line is None:
        return there, _Outcome.OTHER
    if existing is Existing.APPEND:
        return there, _Outcome.KEPT
    return _extended(there, line)


def _extended(there: bytes, line: str) -> tuple[bytes, _Outcome]:
    """Add the fields that a line lacks at its end; what it has stays byte by byte."""
    names = json.loads(there.decode("utf-8-sig")).keys()
    missing = {name: value for name, value in json.loads(line).items() if name not in names}
    if not missing:
        return there, _Outcome.KEPT
    body = there.rstrip()
    added = as_json(missing).removeprefix("{")  # with the closing brace
    return (
        body.removesuffix(b"}").rstrip() + f", {added}".encode() + there[len(body) :],
        _Outcome.WRITTEN,
    )


EXPORTER = Exporter(
    write=_export_metadata,
    existing=frozenset(Existing),
    options=frozenset({"layout", "columns"}),
)
