"""Tables of captions: JSON Lines, a JSON list, CSV, TSV and Parquet, by the names of their columns.

What `raycap export` writes is read as well: a failed row is an image without a caption.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.coco import read_items
from raycap.datasets.files import AnnotationFile, guarded, read_csv, read_lines
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.imagefolders import find_folder, image_uri, is_absolute
from raycap.datasets.rows import captions_of, id_of, split_of, text_of, unnamed
from raycap.errors import DatasetError
from raycap.storage.address import redact

IMAGE_COLUMNS = (
    schema.URI,
    "url",
    "image",
    "image_url",
    "file_name",
    "filename",
    "filepath",
    "path",
    "image_path",
    schema.IMAGE_ID,
)
"""Columns that say where an image is, the first one counts; upper or lower case."""
CAPTION_COLUMNS = (
    schema.CAPTION,
    schema.CAPTIONS_LIST,
    "text",
    "sentence",
    "sentences",
    "raw",
)
"""Columns of captions, texts or lists of texts; the first one counts; upper or lower case."""

_LIST_COLUMNS = (schema.CAPTIONS_LIST, "sentences", "raw")
_OTHER_COLUMNS = (schema.IMAGE_ID, schema.SOURCE_ID, schema.SPLIT, schema.STATUS)
_NUM_PEEKED = 32
_MESSAGE_CHARS = 500
_BATCH_ROWS = 8_192
_BUFFER_BYTES = 1_048_576

_Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the place of a table says of its images."""

    folders: Sequence[str]
    """Addresses of folders that relative paths may be relative to, the last one if in doubt."""
    prefix: str = ""
    """Stands before relative paths to make them ids."""
    split: str | None = None
    """The split of rows that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    image: str
    caption: str
    others: dict[str, str]


def read_rows(
    file: AnnotationFile, layout: Layout, config: StorageConfig
) -> Iterator[AnnotationRow]:
    """Read a table's rows, a caption each.

    Raises:
        DatasetError: it has no column of images or of captions, an unknown split, or cannot be
            parsed any further.
    """
    kind = file.name.lower().rpartition(".")[2]
    rows = guarded(file, kind, _READERS[kind](file))
    first = list(islice(rows, _NUM_PEEKED))
    if not first:
        return
    columns = _choose_columns(file, list(dict.fromkeys(chain.from_iterable(first))))
    names = [name for row in first if (name := text_of(row.get(columns.image)))]
    folder = find_folder(layout.folders[:-1], names, config) or layout.folders[-1]
    for number, row in enumerate(chain(first, rows), start=1):
        image = _image(file, layout, columns, row, number)
        name = text_of(row.get(columns.image))
        image = image._replace(uri=image_uri(folder, name) if name else None)
        for caption in _captions(columns, row):
            yield image._replace(caption=caption)


def _choose_columns(file: AnnotationFile, names: Sequence[str]) -> _Columns:
    standing = {name.lower(): name for name in reversed(names)}

    def choose(what: str, wanted: Sequence[str]) -> str:
        chosen = next((standing[name] for name in wanted if name in standing), None)
        if chosen is None:
            # In one line of bounded length, whatever a damaged file has for names.
            there = " ".join(", ".join(map(redact, names)).split())[:_MESSAGE_CHARS]
            raise DatasetError(
                f"{file.uri}: has no column of {what} (looked for {', '.join(wanted)}); "
                f"its columns are {there or 'none'}"
            )
        return chosen

    return _Columns(
        image=choose("images", IMAGE_COLUMNS),
        caption=choose("captions", CAPTION_COLUMNS),
        others={name: standing[name] for name in _OTHER_COLUMNS if name in standing},
    )


def _image(
    file: AnnotationFile, layout: Layout, columns: _Columns, row: _Row, number: int
) -> AnnotationRow:
    """Say of a row's image what can be said without knowing its folder."""
    name = id_of(row.get(columns.image))
    given = {wanted: row.get(actual) for wanted, actual in columns.others.items()}
    image_id = id_of(given.get(schema.IMAGE_ID)) if columns.image != schema.IMAGE_ID else None
    if image_id is None and name is not None:
        image_id = redact(name) if is_absolute(name) else layout.prefix + name.removeprefix("./")
    return AnnotationRow(
        image_id=image_id or unnamed(file, number),
        source_id=id_of(given.get(schema.SOURCE_ID)),
        uri=None,
        offset_bytes=None,
        size_bytes=None,
        split=split_of(given.get(schema.SPLIT), file, number) or layout.split,
        caption=None,
    )


def _captions(columns: _Columns, row: _Row) -> list[str | None]:
    if row.get(columns.others.get(schema.STATUS, "")) == schema.STATUS_FAILED:
        return [None]
    return captions_of(row.get(columns.caption))


def _read_json_lines(file: AnnotationFile) -> Iterator[_Row]:
    for line in read_lines(file):
        if line.strip():
            yield _mapping(json.loads(line))


def _read_json_list(file: AnnotationFile) -> Iterator[_Row]:
    return map(_mapping, read_items(file, "item"))


def _mapping(item: Any) -> _Row:
    # What is no object names no image: it is one row that is rejected later.
    return item if isinstance(item, dict) else {}


def _read_csv(file: AnnotationFile, delimiter: str) -> Iterator[_Row]:
    # Everything is text here: an id such as 000042 must keep its zeros.
    rows = read_csv(file, delimiter)
    header = [name.strip() for name in next(rows, [])]
    for values in rows:
        row: dict[str, Any] = dict(zip(header, values, strict=False))
        for name in header:
            if name.lower() in CAPTION_COLUMNS and len(values) > len(header):
                row[name] = None  # cut at a separator that should have been quoted
            elif name.lower() in _LIST_COLUMNS:
                row[name] = _as_list(row.get(name))
        yield row


def _as_list(text: str | None) -> Any:
    """Read a field that holds a list as JSON has it, as that of Flickr30k's own table does."""
    if text is None or not text.startswith("["):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_parquet(file: AnnotationFile) -> Iterator[_Row]:
    with file.open() as data:
        # With a buffer, columns are read page by page: row groups may be larger than memory.
        parquet = pq.ParquetFile(data, buffer_size=_BUFFER_BYTES)
        columns = _wanted_columns(file, parquet.schema_arrow)
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()


def _wanted_columns(file: AnnotationFile, columns: pa.Schema) -> list[str]:
    """Name the columns to read: not those of images that hold the images themselves."""
    wanted = {*IMAGE_COLUMNS, *CAPTION_COLUMNS, *_OTHER_COLUMNS}
    found = [field for field in columns if field.name.lower() in wanted]
    binary = [field for field in found if field.name.lower() in IMAGE_COLUMNS and _is_data(field)]
    kept = [field.name for field in found if field not in binary]
    if binary and not any(name.lower() in IMAGE_COLUMNS for name in kept):
        raise DatasetError(
            f"{file.uri}: column '{binary[0].name}' holds the images themselves; raycap reads "
            "tables that name them: write them to files, and their paths to a column 'file_name'"
        )
    return kept


def _is_data(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_binary or pa.types.is_nested(kind))


_READERS: dict[str, Callable[[AnnotationFile], Iterator[_Row]]] = {
    "jsonl": _read_json_lines,
    "json": _read_json_list,
    "csv": partial(_read_csv, delimiter=","),
    "tsv": partial(_read_csv, delimiter="\t"),
    "parquet": _read_parquet,
}
TABLE_SUFFIXES = tuple(f".{name}" for name in _READERS)
"""Files that may be tables, by their names."""
