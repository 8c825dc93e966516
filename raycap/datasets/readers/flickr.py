"""Captions of Flickr8k and Flickr30k: `captions.txt`, `*.token` and `results.csv`.

Sources: Hodosh, Young and Hockenmaier 2013, "Framing Image Description as a Ranking Task";
Young et al. 2014, "From Image Descriptions to Visual Denotations".
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice

import pyarrow as pa

from raycap.datasets.grouping import AnnotationRow
from raycap.datasets.readers.base import Folder, Reader, Source
from raycap.datasets.readers.files import AnnotationFile, guarded, read_lines
from raycap.datasets.readers.image_folders import NUM_TRIED, find_folder, image_uri, usual_folders
from raycap.datasets.readers.rows import Caption, captions_of, name_id, tables_of, text_of, unnamed
from raycap.datasets.readers.table_rows import read_csv
from raycap.datasets.splits import TEST, TRAIN, VALIDATION
from raycap.errors import DatasetError

_NAMES = (
    "captions.txt",
    "results.csv",
    "Flickr8k.token.txt",
    "results_20130124.token",
    "Flickr8k_text/Flickr8k.token.txt",
)
"""Where the captions are in the datasets as published; the first that exists is read."""

_SUFFIXES = (".txt", ".token", ".csv")
_SPLIT_FILES = {
    "Flickr_8k.trainImages.txt": TRAIN,
    "Flickr_8k.devImages.txt": VALIDATION,
    "Flickr_8k.testImages.txt": TEST,
}
_TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)")
# One line of the usual copies of Flickr30k lacks a separator.
_BAR_LINE = re.compile(r"([^|]+)\|\s*\d+\s*\|?(.*)")
_CSV_IMAGE = ("image", "image_name")
_CSV_CAPTION = ("caption", "comment")

_Caption = tuple[str, str | None]
_NONE = Caption(None)


class _Kind(StrEnum):
    """Form of the lines of a file of captions."""

    TOKEN = "token"  # noqa: S105  a word of a caption
    """`1.jpg#0`, a tab, the caption."""
    BARS = "bars"
    """A header, then `1.jpg| 0| the caption`."""
    CSV = "csv"
    """A header with `image` and `caption`, then comma-separated values."""


def is_flickr(file: AnnotationFile) -> bool:
    """Return whether a file is of this format, by its suffix and first line.

    A `.csv` must have bars: with commas, it is a table like any other.
    """
    kind = _kind_of(file) if file.suffix in _SUFFIXES else None
    return kind == _Kind.BARS or (kind is not None and file.suffix != ".csv")


def _find(folder: Folder) -> list[AnnotationFile] | None:
    files = (AnnotationFile(store=folder.store, key=name) for name in _NAMES)
    return next(([file] for file in files if file.exists() and _kind_of(file)), None)


def _kind_of(file: AnnotationFile) -> _Kind | None:
    """Return the form of a file's lines by the first one; None if it is not of Flickr."""
    line = next(read_lines(file), "").rstrip("\r\n")
    header = [name.strip() for name in re.split(r"[|,]", line)]
    if header[0] in _CSV_IMAGE and set(header) & set(_CSV_CAPTION):
        return _Kind.BARS if "|" in line else _Kind.CSV
    return _Kind.TOKEN if _TOKEN_LINE.fullmatch(line) else None


def _read(source: Source) -> Iterator[pa.Table]:
    """Read a file; splits are those of `Flickr_8k.trainImages.txt` and so on beside it."""
    (file,) = source.files
    kind = _kind_of(file)
    if kind is None:
        raise DatasetError(
            f"{file.uri}: is not in a format of Flickr; its first line should be "
            "'image,caption', 'image_name| comment_number| comment', or a caption such as "
            "'1.jpg#0', a tab and text",
            uri=file.uri,
        )
    candidates = [source.images] if source.images is not None else usual_folders(file.folder)
    names = [name for name, _ in islice(_captions(file, kind), NUM_TRIED)]
    folder = find_folder(candidates, names, source.config) or candidates[-1]
    yield from tables_of(_rows(file, kind, folder))


def _rows(file: AnnotationFile, kind: _Kind, folder: str) -> Iterator[AnnotationRow]:
    splits = _read_splits(file)
    uncaptioned = dict.fromkeys(splits)
    for number, (name, caption) in enumerate(_captions(file, kind), start=1):
        uncaptioned.pop(name, None)
        yield _row(name or unnamed(file, number), name, folder, splits.get(name), caption)
    for name in uncaptioned:
        yield _row(name, name, folder, splits[name], _NONE)


def _row(
    image_id: str, name: str, folder: str, split: str | None, caption: Caption
) -> AnnotationRow:
    return AnnotationRow(
        image_id=name_id(image_id),
        source_id=None,
        uri=image_uri(folder, name) if name else None,
        offset_bytes=None,
        size_bytes=None,
        split=split,
        caption=caption.text,
        fault=caption.fault,
    )


def _split_files(file: AnnotationFile) -> list[AnnotationFile]:
    above = file.key.removesuffix(file.name)
    return [AnnotationFile(store=file.store, key=above + name) for name in _SPLIT_FILES]


def _read_splits(file: AnnotationFile) -> dict[str, str]:
    """Read the split of each image: 8,000 names, which fit in memory."""
    splits: dict[str, str] = {}
    for names, split in zip(_split_files(file), _SPLIT_FILES.values(), strict=True):
        if names.exists():
            lines = (text_of(line.strip()) for line in read_lines(names))
            splits.update({image: split for image in lines if image})
    return splits


def _captions(file: AnnotationFile, kind: _Kind) -> Iterator[tuple[str, Caption]]:
    """Yield the name of an image, empty if there is none, and a caption."""
    if kind == _Kind.CSV:
        found = guarded(file, "CSV", _read_csv(file))
    else:
        pattern = _TOKEN_LINE if kind == _Kind.TOKEN else _BAR_LINE
        lines = islice(read_lines(file), kind == _Kind.BARS, None)
        found = (_matched(pattern, line) for line in lines if line.strip())
    for name, caption in found:
        yield text_of(name) or "", captions_of(caption)[0]


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
            # Captions contain commas, and some copies of the file do not quote them.
            values[caption:] = [",".join(values[caption:])] if values[caption:] else []
        name = values[image].strip() if image < len(values) else ""
        yield name, values[caption] if len(values) == len(header) else None


READER = Reader(
    name="flickr",
    suffixes=_SUFFIXES,
    searched=", ".join(_NAMES),
    sniff=is_flickr,
    find=_find,
    read=_read,
    beside=_split_files,
)
