"""Captions of Flickr8k and Flickr30k: `captions.txt`, `*.token` and `results.csv`.

Sources: Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task";
Young et al. 2014, "From Image Descriptions to Visual Denotations".
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice

import pyarrow as pa

from raycap.config import StorageConfig
from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.files import AnnotationFile, guarded, read_csv, read_lines
from raycap.datasets.readers.image_folders import NUM_TRIED, find_folder, image_uri, usual_folders
from raycap.datasets.readers.rows import tables_of, text_of, unnamed
from raycap.datasets.splits import TEST, TRAIN, VALIDATION
from raycap.errors import DatasetError
from raycap.storage.base import Store

FLICKR_NAMES = (
    "captions.txt",
    "results.csv",
    "Flickr8k.token.txt",
    "results_20130124.token",
    "Flickr8k_text/Flickr8k.token.txt",
)
"""Where the captions are in the folders that the datasets come in."""

_SPLIT_FILES = {
    "Flickr_8k.trainImages.txt": TRAIN,
    "Flickr_8k.devImages.txt": VALIDATION,
    "Flickr_8k.testImages.txt": TEST,
}
_TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)")
# A separator is missing in one line of Flickr30k as it is usually shared.
_BAR_LINE = re.compile(r"([^|]+)\|\s*\d+\s*\|?(.*)")
_CSV_IMAGE = ("image", "image_name")
_CSV_CAPTION = ("caption", "comment")

_Caption = tuple[str, str | None]


class FlickrKind(StrEnum):
    """How lines of captions look."""

    TOKEN = "token"  # noqa: S105  a word of a caption
    """`1.jpg#0`, a tab, the caption."""
    BARS = "bars"
    """A header, then `1.jpg| 0| the caption`."""
    CSV = "csv"
    """A header with `image` and `caption`, then comma-separated values."""


def find_flickr(store: Store) -> list[AnnotationFile]:
    """Find the file of captions of a folder."""
    files = (AnnotationFile(store=store, key=name) for name in FLICKR_NAMES)
    return list(islice((f for f in files if f.stands() and flickr_kind(f)), 1))


def flickr_kind(file: AnnotationFile) -> FlickrKind | None:
    """Tell how a file's captions look, by its first line; None for what is none of Flickr's."""
    line = next(read_lines(file), "").rstrip("\r\n")
    header = [name.strip() for name in re.split(r"[|,]", line)]
    if header[0] in _CSV_IMAGE and set(header) & set(_CSV_CAPTION):
        return FlickrKind.BARS if "|" in line else FlickrKind.CSV
    return FlickrKind.TOKEN if _TOKEN_LINE.fullmatch(line) else None


def read_flickr(
    file: AnnotationFile, images: str | None, config: StorageConfig
) -> Iterator[pa.Table]:
    """Read a file of captions as ANNOTATIONS tables.

    The split is that of `Flickr_8k.trainImages.txt` and so on, where they stand beside the file.

    Args:
        file: of one of the three kinds.
        images: address of the folder of images; None: looked for beside the file.
        config: how stores are reached.

    Raises:
        DatasetError: the file is of another kind, or damaged.
    """
    kind = flickr_kind(file)
    if kind is None:
        raise DatasetError(
            f"{file.uri}: does not look like captions of Flickr; its first line should be "
            "'image,caption', 'image_name| comment_number| comment', or a caption such as "
            "'1.jpg#0', a tab and text"
        )
    candidates = [images] if images is not None else usual_folders(file.folder)
    names = [name for name, _ in islice(_captions(file, kind), NUM_TRIED)]
    folder = find_folder(candidates, names, config) or candidates[-1]
    yield from tables_of(_rows(file, kind, folder))


def _rows(file: AnnotationFile, kind: FlickrKind, folder: str) -> Iterator[AnnotationRow]:
    splits = _read_splits(file)
    uncaptioned = dict.fromkeys(splits)
    for number, (name, caption) in enumerate(_captions(file, kind), start=1):
        uncaptioned.pop(name, None)
        yield _row(name or unnamed(file, number), name, folder, splits.get(name), caption)
    for name in uncaptioned:
        yield _row(name, name, folder, splits[name], None)


def _row(
    image_id: str, name: str, folder: str, split: str | None, caption: str | None
) -> AnnotationRow:
    return AnnotationRow(
        image_id=image_id,
        source_id=None,
        uri=image_uri(folder, name) if name else None,
        offset_bytes=None,
        size_bytes=None,
        split=split,
        caption=caption,
    )


def _read_splits(file: AnnotationFile) -> dict[str, str]:
    """Read which split the images are in: 8,000 names, which memory may hold."""
    above = file.key.removesuffix(file.name)
    splits: dict[str, str] = {}
    for name, split in _SPLIT_FILES.items():
        names = AnnotationFile(store=file.store, key=above + name)
        if names.stands():
            lines = (text_of(line.strip()) for line in read_lines(names))
            splits.update({image: split for image in lines if image})
    return splits


def _captions(file: AnnotationFile, kind: FlickrKind) -> Iterator[_Caption]:
    """Yield the name of an image, empty where there is none, and a caption."""
    if kind == FlickrKind.CSV:
        found = guarded(file, "CSV", _read_csv(file))
    else:
        pattern = _TOKEN_LINE if kind == FlickrKind.TOKEN else _BAR_LINE
        lines = islice(read_lines(file), kind == FlickrKind.BARS, None)
        found = (_matched(pattern, line) for line in lines if line.strip())
    for name, caption in found:
        yield text_of(name) or "", text_of(caption)


def _matched(pattern: re.Pattern[str], line: str) -> _Caption:
    match = pattern.fullmatch(line.rstrip("\r\n"))
    return (match[1].strip(), match[2].strip()) if match else ("", None)


def _read_csv(file: AnnotationFile) -> Iterator[_Caption]:
    rows = read_csv(file, ",")
    header = [name.strip() for name in next(rows)]
    image, caption = (
        next(header.index(name) for name in wanted if name in header)
        for wanted in (_CSV_IMAGE, _CSV_CAPTION)
    )
    for values in rows:
        if caption == len(header) - 1:
            # Captions hold commas, which not every copy of the file has in quotes.
            values[caption:] = [",".join(values[caption:])] if values[caption:] else []
        name = values[image].strip() if image < len(values) else ""
        yield name, values[caption] if len(values) == len(header) else None
