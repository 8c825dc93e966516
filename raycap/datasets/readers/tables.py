"""Tables of captions: JSON Lines, a JSON list, CSV, TSV and Parquet, by the names of their columns.

What `raycap export` writes is read as well: a failed row is an image without a caption.

Folders with tables: `metadata.jsonl` and its like beside the images, and Parquet parts.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.coco import read_items
from raycap.datasets.readers.files import AnnotationFile, guarded, read_csv, read_lines
from raycap.datasets.readers.image_folders import find_folder, image_uri, is_absolute
from raycap.datasets.readers.rows import (
    captions_of,
    files_with_splits,
    id_of,
    split_of,
    tables_of,
    text_of,
    unnamed,
)
from raycap.datasets.splits import SPLIT_WORDS, split_in_name
from raycap.errors import DatasetError
from raycap.storage.address import redact
from raycap.storage.base import Store

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


METADATA_NAMES = (
    "metadata.jsonl",
    "metadata.csv",
    "metadata.parquet",
    "captions.jsonl",
    "captions.csv",
)
"""Tables beside images: Hugging Face's names, and two plain ones."""
PART_SUFFIX = ".parquet"
"""What a table in several files is made of."""


def find_metadata(store: Store) -> list[AnnotationFile]:
    """Find a folder's table, or else those of its folders `train`, `validation` and so on."""
    for folders in ([""], [f"{word}/" for word in SPLIT_WORDS]):
        found = [file for folder in folders if (file := _first_standing(store, folder))]
        if found:
            return found
    return []


def _first_standing(store: Store, folder: str) -> AnnotationFile | None:
    files = (AnnotationFile(store=store, key=folder + name) for name in METADATA_NAMES)
    return next((file for file in files if file.stands()), None)


def read_metadata(
    files: Iterable[AnnotationFile], images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    """Read tables beside images as ANNOTATIONS tables.

    Args:
        files: as `find_metadata` found them: those within folders named like splits have these.
        images: address of the folder of images; None: the table's own folder, or `images` in it.
        config: how stores are reached.

    Raises:
        DatasetError: see `tables.read_rows`.
    """
    for file in files:
        word = file.key.rpartition("/")[0]
        if images is None:
            folders = [file.folder, f"{file.folder}/images", file.folder]
        else:
            folders = [f"{images}/{word}", images] if word else [images]
        prefix = f"{word}/" if word else ""
        layout = Layout(folders=folders, prefix=prefix, split=split_in_name(word))
        yield from tables_of(read_rows(file, layout, config))


def read_table(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    """Read one table as ANNOTATIONS tables; relative paths are relative to its folder.

    Args:
        file: of a kind of `tables.TABLE_SUFFIXES`.
        images: address of the folder that paths are relative to instead.
        config: how stores are reached.

    Raises:
        DatasetError: see `tables.read_rows`.
    """
    yield from tables_of(read_rows(file, Layout(folders=[images or file.folder]), config))


def read_parts(store: Store, images: str | None, config: StorageConfig) -> Iterator[pa.Table]:
    """Read all Parquet files of a folder as ANNOTATIONS tables, as `read_table` reads one.

    Relative paths are relative to the folder. Where all files are named after splits, as in
    `train-00000-of-00002.parquet`, rows that name no split have that of their file.

    Raises:
        DatasetError: there is none, or as `tables.read_rows` says.
    """
    for file, split in files_with_splits(store, PART_SUFFIX):
        layout = Layout(folders=[images or store.uri], split=split)
        yield from tables_of(read_rows(file, layout, config))
