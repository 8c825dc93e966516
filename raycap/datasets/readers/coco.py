"""COCO captions JSON: `images` and `annotations`, each a list, joined by the image's number."""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Any

import ijson
import pyarrow as pa

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.readers.files import AnnotationFile, JsonText, guarded, paged
from raycap.datasets.readers.image_folders import NUM_TRIED, find_folder, image_uri, usual_folders
from raycap.datasets.readers.joining import KEY, KEYED_CAPTIONS, KEYED_IMAGES, scratch_join
from raycap.datasets.readers.rows import id_of, text_of, unnamed
from raycap.datasets.splits import split_in_name, word_in_name
from raycap.errors import DatasetError

FILE_NAME = "file_name"
IMAGES = "images"
_ANNOTATIONS = "annotations"
_PAGE_ROWS = 8_192
_NUM_EVENTS = 1_000_000  # after which large files of other things are not looked into further


class JsonKind(StrEnum):
    """What a JSON file of captions looks like."""

    COCO = "coco"
    """An object with `annotations`, or with `images` that have a `file_name`."""
    KARPATHY = "karpathy"
    """An object with `images` that have `sentences`."""
    LIST = "list"
    """A list."""


_KIND_OF_FIELD = {
    "file_name": JsonKind.COCO,
    "coco_url": JsonKind.COCO,
    "id": JsonKind.COCO,
    "sentences": JsonKind.KARPATHY,
    "sentids": JsonKind.KARPATHY,
    "filename": JsonKind.KARPATHY,
}


def json_kind(file: AnnotationFile) -> JsonKind | None:
    """Tell what a JSON file holds, by its beginning; None for what holds no captions.

    Raises:
        DatasetError: it is no JSON.
    """
    has_images = False
    with file.open() as data:
        text = JsonText(data)
        events = islice(ijson.parse(text), _NUM_EVENTS)
        for prefix, event, value in guarded(file, "JSON", events, text):
            if not prefix and event == "start_array":
                return JsonKind.LIST
            if not prefix and event == "map_key" and value == _ANNOTATIONS:
                return JsonKind.COCO
            if prefix == f"{IMAGES}.item" and event == "map_key" and value in _KIND_OF_FIELD:
                return _KIND_OF_FIELD[value]
            has_images = has_images or prefix == IMAGES
    return JsonKind.COCO if has_images else None


def read_items(file: AnnotationFile, prefix: str) -> Iterator[Any]:
    """Yield the items of a list within a JSON file, such as that of `images.item`.

    Raises:
        DatasetError: the file cannot be parsed any further.
    """
    with file.open() as data:
        text = JsonText(data)
        items = ijson.items(text, prefix, use_float=True)
        yield from guarded(file, "JSON", items, text)


def read_coco(
    files: Iterable[AnnotationFile], images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    """Read COCO captions files as ANNOTATIONS tables.

    Args:
        files: each is joined in itself: numbers of one file mean nothing in another.
        images: address of the folder of images; None: looked for beside each file.
        config: how stores are reached.

    Raises:
        DatasetError: a file is none of COCO, or damaged.
    """
    for file in files:
        kind = json_kind(file)
        if kind != JsonKind.COCO:
            found = f"looks like '{kind}'" if kind else "has neither 'images' nor 'annotations'"
            raise DatasetError(f"{file.uri}: is no COCO captions file: it {found}")
        yield from _read_file(file, images, config)


def _read_file(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    folder = _find_folder(file, images, config)
    split = split_in_name(file.name)
    with scratch_join() as join:
        for page in paged(_images(file, folder, split), _PAGE_ROWS):
            join.images.add(pa.Table.from_pylist(page, schema=KEYED_IMAGES))
        for page in paged(_captions(file), _PAGE_ROWS):
            join.captions.add(pa.Table.from_pylist(page, schema=KEYED_CAPTIONS))
        yield from join.tables()


def _find_folder(file: AnnotationFile, images: str | None, config: StorageConfig) -> str:
    found = word_in_name(file.name)
    words = [found[1], re.sub(r"\d+$", "", found[1])] if found else []
    if images is not None:
        candidates = [*(f"{images}/{word}" for word in words), images]
    else:
        candidates = usual_folders(file.folder, words)
    first = islice(read_items(file, f"{IMAGES}.item"), NUM_TRIED)
    names = [text_of(item.get(FILE_NAME)) for item in first if isinstance(item, dict)]
    return find_folder(candidates, [name for name in names if name], config) or candidates[-1]


def _images(file: AnnotationFile, folder: str, split: str | None) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(read_items(file, f"{IMAGES}.item"), start=1):
        fields = item if isinstance(item, dict) else {}
        name = text_of(fields.get(FILE_NAME))
        key = id_of(fields.get("id"))
        yield {
            KEY: key or unnamed(file, number, "image"),
            schema.IMAGE_ID: name or key or unnamed(file, number, "image"),
            schema.SOURCE_ID: key,
            schema.URI: image_uri(folder, name) if name else None,
            schema.SPLIT: split,
        }


def _captions(file: AnnotationFile) -> Iterator[dict[str, Any]]:
    for number, item in enumerate(read_items(file, f"{_ANNOTATIONS}.item"), start=1):
        fields = item if isinstance(item, dict) else {}
        yield {
            KEY: id_of(fields.get(schema.IMAGE_ID)) or unnamed(file, number, "annotation"),
            schema.CAPTION: text_of(fields.get(schema.CAPTION)),
        }
