"""Tables of captions, by the names of their columns.

The output of `raycap export` is read too: a failed row is an image without a caption. Folders may
contain `metadata.jsonl` or similar beside the images, or Parquet parts, which may contain the
images, as datasets of the Hugging Face Hub do.
"""

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.datasets.grouping import AnnotationRow, Notes
from raycap.datasets.readers.base import Folder, Reader, Source
from raycap.datasets.readers.embedded import image_path
from raycap.datasets.readers.files import AnnotationFile
from raycap.datasets.readers.flickr import is_flickr
from raycap.datasets.readers.image_folders import find_images, image_uri, is_absolute
from raycap.datasets.readers.json_files import JsonKind, is_json
from raycap.datasets.readers.rows import (
    Caption,
    captions_of,
    files_with_splits,
    id_of,
    name_id,
    split_of,
    tables_of,
    text_of,
    unnamed,
)
from raycap.datasets.readers.table_rows import REST, TABLE_SUFFIXES, Row, read_rows
from raycap.datasets.splits import SPLIT_WORDS, split_in_name, split_of_folder
from raycap.errors import DatasetError
from raycap.storage.address import redact, redact_id
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
"""Columns that locate an image; the first that exists is used, in upper or lower case."""
CAPTION_COLUMNS = (
    schema.CAPTION,
    schema.CAPTIONS_LIST,
    "text",
    "sentence",
    "sentences",
    "raw",
)
"""Columns of captions, texts or lists of texts; chosen as IMAGE_COLUMNS."""

_LIST_COLUMNS = (schema.CAPTIONS_LIST, "sentences", "raw")
_OTHER_COLUMNS = (schema.IMAGE_ID, schema.SOURCE_ID, schema.SPLIT, schema.STATUS)
_METADATA_NAMES = (
    "metadata.jsonl",
    "metadata.csv",
    "metadata.parquet",
    "captions.jsonl",
    "captions.csv",
)  # Hugging Face's names, and two plain ones
_NOT_READ = "tables in folders of splits are not read, because there is one above them"
_PART_SUFFIX = ".parquet"
_PATH = ".path"
_NUM_PEEKED = 32
_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What the location of a table says about its images."""

    folders: Sequence[str]
    """Addresses of folders that relative paths may be relative to; the last one if in doubt."""
    prefix: str = ""
    """Prepended to relative paths to make ids."""
    split: str | None = None
    """Split of rows that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    image: str
    caption: str
    others: dict[str, str]


def _annotations(file: AnnotationFile, layout: _Layout, source: Source) -> Iterator[AnnotationRow]:
    """Read a table's rows, one per caption.

    Raises:
        DatasetError: it has no column of images or of captions, an unknown split, or cannot be
            parsed any further.
    """
    nested: list[str] = []  # columns of images as `datasets` stores them
    embedded: list[str] = []  # columns that contain images

    def choose_columns(found: pa.Schema) -> list[str]:
        chosen = _wanted_columns(found)
        nested.extend(name.removesuffix(_PATH) for name in chosen if name.endswith(_PATH))
        embedded.extend(_embedded_columns(found))
        return chosen

    rows: Iterator[Row] = read_rows(file, choose_columns=choose_columns)
    rows = (row | {name: (row[name] or {}).get("path") for name in nested} for row in rows)
    if file.suffix in (".csv", ".tsv"):
        rows = map(_parse_fields, rows)
    first = list(islice(rows, _NUM_PEEKED))
    if not first:
        return
    columns = _choose_columns(file, [*dict.fromkeys(chain.from_iterable(first)), *embedded])
    names = [name for row in first if (name := text_of(row.get(columns.image)))]
    if columns.image in embedded and source.images is None and not any(map(is_absolute, names)):
        yield from _embedded(file, layout, columns, chain(first, rows))
        return
    folder, convert = find_images(layout.folders, names, source.config)
    for number, row in enumerate(chain(first, rows), start=1):
        name = convert(text_of(row.get(columns.image)))
        given = row if name is None else row | {columns.image: name}
        image = _image(file, layout, columns, given, number)
        image = image._replace(uri=image_uri(folder, name) if name else None)
        image = _in_split_of_folder(image, name, folder, source.notes)
        for caption in _captions(columns, row):
            yield image._replace(caption=caption.text, fault=caption.fault)


def _embedded(
    file: AnnotationFile, layout: _Layout, columns: _Columns, rows: Iterable[Row]
) -> Iterator[AnnotationRow]:
    """Read the rows of a table that contains the images: each is at its row of the file.

    Images without an id are named by their row, so that they are built in the order of the file.
    """
    stem = posixpath.splitext(file.key)[0]
    for number, row in enumerate(rows, start=1):
        place = f"{stem}/{number - 1:08d}"
        given = row if schema.IMAGE_ID in columns.others else row | {columns.image: place}
        image = _image(file, layout, columns, given, number)
        image = image._replace(uri=file.uri, offset_bytes=number - 1, source_id=place)
        for caption in _captions(columns, row):
            yield image._replace(caption=caption.text, fault=caption.fault)


def _choose_columns(file: AnnotationFile, names: Sequence[str]) -> _Columns:
    by_name = {name.lower(): name for name in reversed(names)}

    def choose(what: str, wanted: Sequence[str]) -> str:
        chosen = next((by_name[name] for name in wanted if name in by_name), None)
        if chosen is None:
            # In one line of bounded length, whatever the names of a damaged file are.
            there = " ".join(", ".join(map(redact, names)).split())[:_MESSAGE_CHARS]
            raise DatasetError(
                f"{file.uri}: has no column of {what} (looked for {', '.join(wanted)}); "
                f"its columns are {there or 'none'}",
                uri=file.uri,
            )
        return chosen

    return _Columns(
        image=choose("images", IMAGE_COLUMNS),
        caption=choose("captions", CAPTION_COLUMNS),
        others={name: by_name[name] for name in _OTHER_COLUMNS if name in by_name},
    )


def _image(
    file: AnnotationFile, layout: _Layout, columns: _Columns, row: Row, number: int
) -> AnnotationRow:
    """Describe a row's image, except for its address."""
    name = id_of(row.get(columns.image))
    given = {wanted: row.get(actual) for wanted, actual in columns.others.items()}
    image_id = id_of(given.get(schema.IMAGE_ID)) if columns.image != schema.IMAGE_ID else None
    image_id = None if image_id is None else redact_id(image_id)
    if image_id is None and name is not None:
        image_id = name_id(name) if is_absolute(name) else layout.prefix + name_id(name)
    source_id = id_of(given.get(schema.SOURCE_ID))
    return AnnotationRow(
        image_id=image_id or unnamed(file, number),
        source_id=redact_id(source_id) if source_id else None,
        uri=None,
        offset_bytes=None,
        size_bytes=None,
        split=split_of(given.get(schema.SPLIT), file, number) or layout.split,
        caption=None,
    )


_OTHER_FOLDER = "images are in a folder of another split than their row names; the row counts"


def _in_split_of_folder(
    image: AnnotationRow, name: str | None, folder: str, notes: Notes
) -> AnnotationRow:
    """Give an image the split of its folder, if its row names none."""
    split = split_of_folder(name.removeprefix(f"{folder}/")) if name else None
    if split is None or split == image.split:
        return image
    if image.split is not None:
        notes.add(_OTHER_FOLDER, example=image.image_id)
        return image
    return image._replace(split=split)


def _captions(columns: _Columns, row: Row) -> list[Caption]:
    if row.get(columns.others.get(schema.STATUS, "")) == schema.STATUS_FAILED:
        return [Caption(None)]
    return captions_of(row.get(columns.caption))


def _parse_fields(row: Row) -> Row:
    """Parse lists in the fields of CSV, and reject captions cut at an unquoted separator."""
    is_cut = row.pop(REST, None) is not None
    for name in row:
        if is_cut and name.lower() in CAPTION_COLUMNS:
            row[name] = None
        elif name.lower() in _LIST_COLUMNS:
            row[name] = _as_list(row[name])
    return row


def _as_list(text: str | None) -> Any:
    """Parse a field that contains a JSON list, as Flickr30k's own table has it."""
    if text is None or not text.startswith("["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _wanted_columns(columns: pa.Schema) -> list[str]:
    """Return the columns to read: not those that contain the images themselves."""
    wanted = {*IMAGE_COLUMNS, *CAPTION_COLUMNS, *_OTHER_COLUMNS}
    found = [field for field in columns if field.name.lower() in wanted]
    images = [field for field in found if field.name.lower() in IMAGE_COLUMNS]
    binary = [field for field in images if _is_data(field)]
    kept = [field.name for field in found if field not in binary]
    if not _are_named(images):
        kept += [f"{field.name}{_PATH}" for field in binary if _has_path(field)]
    return kept


def _are_named(images: list[pa.Field]) -> bool:
    """Whether a column other than the id says where images are."""
    return any(not _is_data(field) and field.name.lower() != schema.IMAGE_ID for field in images)


def _embedded_columns(columns: pa.Schema) -> list[str]:
    """Return the columns that contain the images, unless another says where they are."""
    images = [field for field in columns if field.name.lower() in IMAGE_COLUMNS]
    found = [field.name for field in images if image_path(field) is not None]
    return [] if _are_named(images) else found


def _has_path(field: pa.Field) -> bool:
    """Whether it is an image as `datasets` stores it: its bytes, or the path to read it from."""
    return bool(pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0)


def _is_data(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_binary or pa.types.is_nested(kind))


def _find_metadata(folder: Folder) -> list[AnnotationFile] | None:
    """Find a folder's table, or else those of its folders `train`, `validation` and so on."""
    for folders in ([""], [f"{word}/" for word in SPLIT_WORDS]):
        found = [file for name in folders if (file := _first_table(folder.store, name))]
        if found:
            return found
    return None


def _first_table(store: Store, folder: str) -> AnnotationFile | None:
    files = (AnnotationFile(store=store, key=folder + name) for name in _METADATA_NAMES)
    return next((file for file in files if file.exists()), None)


def _unread_metadata(source: Source) -> list[AnnotationFile]:
    """Find tables in folders of splits beside a table above them, which alone is read."""
    if any("/" in file.key for file in source.files):
        return []
    found = (_first_table(source.store, f"{word}/") for word in SPLIT_WORDS)
    return [file for file in found if file is not None]


def _read_metadata(source: Source) -> Iterator[pa.Table]:
    """Read tables beside images; those in folders named after splits have these splits."""
    for unread in _unread_metadata(source):
        source.notes.add(_NOT_READ, example=unread.uri)
    for file in source.files:
        word = file.key.rpartition("/")[0]
        if source.images is None:
            folders = [file.folder, f"{file.folder}/images", file.folder]
        else:
            folders = [f"{source.images}/{word}", source.images] if word else [source.images]
        prefix = f"{word}/" if word else ""
        layout = _Layout(folders=folders, prefix=prefix, split=split_in_name(word))
        yield from tables_of(_annotations(file, layout, source))


def _find_parts(folder: Folder) -> list[AnnotationFile] | None:
    return [] if folder.has_suffix(_PART_SUFFIX) else None


def _is_table(file: AnnotationFile) -> bool:
    if file.suffix == ".json":
        return is_json(file, JsonKind.LIST)
    return file.suffix in TABLE_SUFFIXES


def _read_tables(source: Source) -> Iterator[pa.Table]:
    """Read one table, or all Parquet files of a folder.

    Relative paths are relative to the folder. Rows that name no split have that of their file, as
    in `train-00000-of-00002.parquet`.
    """
    files: Iterable[tuple[AnnotationFile, str | None]] = [(file, None) for file in source.files]
    for file, split in files if source.files else files_with_splits(source.store, _PART_SUFFIX):
        folder = file.folder if source.files else source.store.uri
        layout = _Layout(folders=[source.images or folder], split=split)
        yield from tables_of(_annotations(file, layout, source))


METADATA = Reader(
    name="metadata",
    suffixes=TABLE_SUFFIXES,
    searched=f"{', '.join(_METADATA_NAMES)} (here or in train/, test/, ...)",
    sniff=lambda file: file.name in _METADATA_NAMES and not is_flickr(file),
    find=_find_metadata,
    read=_read_metadata,
)

TABLE = Reader(
    name="table",
    suffixes=TABLE_SUFFIXES,
    searched=f"{_PART_SUFFIX} files",
    sniff=_is_table,
    find=_find_parts,
    read=_read_tables,
    reads=lambda key: key.lower().endswith(_PART_SUFFIX),
    is_folder=True,
)
