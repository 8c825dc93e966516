"""Folders with tables: `metadata.jsonl` and its like beside the images, and Parquet parts."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.files import AnnotationFile
from raycap.datasets.rows import files_with_splits, tables_of
from raycap.datasets.splits import SPLIT_WORDS, split_in_name
from raycap.datasets.tables import Layout, read_rows
from raycap.storage.base import Store

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
