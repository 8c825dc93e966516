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
from raycap.datasets.readers.image_folders import (
    NUM_PEEKED,
    Convert,
    find_folder,
    find_images,
    image_uri,
    usual_folders,
    with_slashes,
)
from raycap.datasets.readers.json_files import (
    IMAGES,
    JsonKind,
    find_json,
    is_json,
    json_kind,
    read_items,
)
from raycap.datasets.readers.rows import (
    captions_of,
    id_of,
    name_id,
    split_of,
    tables_of,
    text_of,
    unnamed,
)
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
    folder, convert, is_nested = _find_folder(file, images, config)
    seen: set[int] = set()  # a hash each of 100,000 images
    for number, item in enumerate(read_items(file, f"{IMAGES}.item"), start=1):
        fields = item if isinstance(item, dict) else {}
        name = convert(_name(fields, is_nested=is_nested))
        source_id = id_of(fields.get("cocoid")) or id_of(fields.get("imgid"))
        row = AnnotationRow(
            image_id=name_id(name) if name else source_id or unnamed(file, number),
            source_id=source_id,
            uri=image_uri(folder, name) if name else None,
            offset_bytes=None,
            size_bytes=None,
            split=split_of(fields.get("split"), file, number),
            caption=None,
        )
        captions = captions_of(_sentences(fields))
        entry = hash((row, *captions))
        if entry in seen and name:
            continue  # given twice, it would have its captions twice
        seen.add(entry)
        for caption in captions:
            yield row._replace(caption=caption.text, fault=caption.fault)


def _find_folder(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> tuple[str, Convert, bool]:
    """Find the folder that names are relative to, and whether they include `filepath`."""
    first = list(islice(read_items(file, f"{IMAGES}.item"), NUM_PEEKED))
    items = [item for item in first if isinstance(item, dict)]
    candidates = [images] if images is not None else usual_folders(file.folder)
    nested = [name for item in items if (name := _name(item, is_nested=True))]
    flat = [name for item in items if (name := _name(item, is_nested=False))]
    for names, is_nested in ((nested, True), (flat, False)):
        folder, convert = find_images(candidates, names, config)
        paths = [path for name in names if (path := convert(name))]
        if find_folder([folder], paths, config):
            return folder, convert, is_nested
    return candidates[-1], with_slashes, True


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
