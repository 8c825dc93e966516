"""Karpathy's splits: `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`.

Source: Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image
Descriptions", arXiv:1412.2306.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.base import Reader, Source
from raycap.datasets.readers.files import AnnotationFile
from raycap.datasets.readers.image_folders import NUM_TRIED, find_folder, image_uri, usual_folders
from raycap.datasets.readers.json_files import (
    IMAGES,
    JsonKind,
    find_json,
    is_json,
    json_kind,
    read_items,
)
from raycap.datasets.readers.rows import captions_of, id_of, split_of, tables_of, text_of, unnamed
from raycap.errors import DatasetError


def _read(source: Source) -> Iterator[pa.Table]:
    """Read each file; split `restval` is training.

    An image's id is its `filepath` and `filename` where the images are in such folders (COCO's),
    and its `filename` otherwise.
    """
    for file in source.files:
        kind = json_kind(file)
        if kind != JsonKind.KARPATHY:
            raise DatasetError(
                f"{file.uri}: has no 'images' with 'sentences', so it is not in Karpathy's format",
                uri=file.uri,
            )
        yield from tables_of(_rows(file, source.images, source.config))


def _rows(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> Iterator[AnnotationRow]:
    folder, is_nested = _find_folder(file, images, config)
    for number, item in enumerate(read_items(file, f"{IMAGES}.item"), start=1):
        fields = item if isinstance(item, dict) else {}
        name = _name(fields, is_nested=is_nested)
        source_id = id_of(fields.get("cocoid")) or id_of(fields.get("imgid"))
        row = AnnotationRow(
            image_id=name or source_id or unnamed(file, number),
            source_id=source_id,
            uri=image_uri(folder, name) if name else None,
            offset_bytes=None,
            size_bytes=None,
            split=split_of(fields.get("split"), file, number),
            caption=None,
        )
        for caption in captions_of(_sentences(fields)):
            yield row._replace(caption=caption)


def _find_folder(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> tuple[str, bool]:
    """Find the folder that names are relative to, and whether they include `filepath`."""
    first = list(islice(read_items(file, f"{IMAGES}.item"), NUM_TRIED))
    items = [item for item in first if isinstance(item, dict)]
    candidates = [images] if images is not None else usual_folders(file.folder)
    nested = [name for item in items if (name := _name(item, is_nested=True))]
    flat = [name for item in items if (name := _name(item, is_nested=False))]
    if folder := find_folder(candidates, nested, config):
        return folder, True
    if folder := find_folder(candidates, flat, config):
        return folder, False
    return candidates[-1], True


def _name(fields: dict[str, Any], *, is_nested: bool) -> str | None:
    name = text_of(fields.get("filename"))
    above = text_of(fields.get("filepath"))
    return f"{above}/{name}" if name and above and is_nested else name


def _sentences(fields: dict[str, Any]) -> list[Any]:
    sentences = fields.get("sentences")
    items = sentences if isinstance(sentences, list) else []
    return [item.get("raw") if isinstance(item, dict) else None for item in items]


READER = Reader(
    name="karpathy",
    suffixes=(".json",),
    searched="Karpathy's JSON (here or in annotations/)",
    sniff=partial(is_json, kind=JsonKind.KARPATHY),
    find=partial(find_json, kind=JsonKind.KARPATHY),
    read=_read,
)
