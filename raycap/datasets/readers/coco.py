"""COCO captions JSON: the lists `images` and `annotations`, joined by the image's number."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.readers.base import Reader, Source
from raycap.datasets.readers.files import AnnotationFile, paged
from raycap.datasets.readers.image_folders import (
    NUM_PEEKED,
    Convert,
    find_images,
    image_uri,
    usual_folders,
)
from raycap.datasets.readers.json_files import (
    ANNOTATIONS,
    IMAGES,
    JsonKind,
    find_json,
    is_json,
    json_kind,
    read_items,
)
from raycap.datasets.readers.rows import (
    KEY,
    KEYED_CAPTIONS,
    KEYED_IMAGES,
    PAGE_ROWS,
    captions_of,
    id_of,
    name_id,
    scratch_join,
    text_of,
    unnamed,
)
from raycap.datasets.splits import split_in_name, split_of_folder, word_in_name
from raycap.errors import DatasetError

FILE_NAME = "file_name"


def _read(source: Source) -> Iterator[pa.Table]:
    """Read each file separately: image numbers of one file have no meaning in another."""
    for file in source.files:
        kind = json_kind(file)
        if kind != JsonKind.COCO:
            found = f"looks like '{kind}'" if kind else "has neither 'images' nor 'annotations'"
            raise DatasetError(f"{file.uri}: is not a COCO captions file: it {found}", uri=file.uri)
        yield from _read_file(file, source.images, source.config)


def _read_file(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    folder, convert = _find_folder(file, images, config)
    split = split_in_name(file.name)
    with scratch_join() as join:
        for page in paged(_images(file, folder, convert, split), PAGE_ROWS):
            join.images.add(pa.Table.from_pylist(page, schema=KEYED_IMAGES))
        join.drop_repeated_images()
        for page in paged(_captions(file), PAGE_ROWS):
            join.captions.add(pa.Table.from_pylist(page, schema=KEYED_CAPTIONS))
        yield from join.tables()


def _find_folder(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> tuple[str, Convert]:
    """Return the folder of the images, and what turns their names into paths there."""
    found = word_in_name(file.name)
    words = [found[1], re.sub(r"\d+$", "", found[1])] if found else []
    if images is not None:
        candidates = [*(f"{images}/{word}" for word in words), images]
    else:
        candidates = usual_folders(file.folder, words)
    first = islice(read_items(file, f"{IMAGES}.item"), NUM_PEEKED)
    names = [text_of(item.get(FILE_NAME)) for item in first if isinstance(item, dict)]
    return find_images(candidates, [name for name in names if name], config)


def _images(
    file: AnnotationFile, folder: str, convert: Convert, split: str | None
) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(read_items(file, f"{IMAGES}.item"), start=1):
        fields = item if isinstance(item, dict) else {}
        name = convert(text_of(fields.get(FILE_NAME)))
        key = id_of(fields.get("id"))
        yield {
            KEY: key or unnamed(file, number, "image"),
            schema.IMAGE_ID: name_id(name) if name else key or unnamed(file, number, "image"),
            schema.SOURCE_ID: key,
            schema.URI: image_uri(folder, name) if name else None,
            schema.SPLIT: split or (split_of_folder(name) if name else None),
        }


def _captions(file: AnnotationFile) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(read_items(file, f"{ANNOTATIONS}.item"), start=1):
        fields = item if isinstance(item, dict) else {}
        key = id_of(fields.get(schema.IMAGE_ID)) or unnamed(file, number, "annotation")
        for caption in captions_of(fields.get(schema.CAPTION)):
            yield {KEY: key, schema.CAPTION: caption.text, schema.FAULT: caption.fault}


READER = Reader(
    name="coco",
    suffixes=(".json",),
    searched="COCO captions JSON (here or in annotations/)",
    sniff=partial(is_json, kind=JsonKind.COCO),
    find=partial(find_json, kind=JsonKind.COCO),
    read=_read,
)
