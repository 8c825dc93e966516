"""Closed sets of values that arguments take, for the command line and Python alike."""

from enum import StrEnum
from typing import Literal

AnnotationFormatName = Literal[
    "metadata", "flickr", "coco", "karpathy", "webdataset", "table", "sidecar"
]
"""Names of the readers in `datasets.readers.recognition`, in its order; a test compares them.
Written down here because the readers load libraries that no `--help` should wait for."""


class ExportFormat(StrEnum):
    """Formats of an export."""

    JSONL = "jsonl"
    """One file with a JSON object per line and all columns, including failed images."""
    CSV = "csv"
    """One file (RFC 4180) with all columns, including failed images."""
    PARQUET = "parquet"
    """One file with all columns, including failed images."""
    SIDECAR = "sidecar"
    """A folder with the structure of the images: `a/b.jpg` has its caption in `a/b.txt`."""
    METADATA = "metadata"
    """A folder of images gets `metadata.jsonl`, which names each image and its caption."""
    XMP = "xmp"
    """A folder with the structure of the images: `a/b.jpg` has its metadata in `a/b.jpg.xmp`."""
    WEBDATASET = "webdataset"
    """A folder of tars with images, captions and rows."""
    COCO = "coco"
    """One file: a COCO captions JSON, a dataset of images and annotations."""
    COCO_RESULTS = "coco-results"
    """One file: a list of COCO results, as `loadRes` of pycocotools reads it."""
    HF = "hf"
    """A folder that `datasets.load_dataset` reads, with a card for the Hugging Face Hub."""


class Existing(StrEnum):
    """What an export does with files that exist at its destination."""

    REFUSE = "refuse"
    """Stop before anything is written, unless their content is the same."""
    SKIP = "skip"
    """Keep them, and write the others."""
    APPEND = "append"
    """Keep their content, and add to it: a line to a sidecar, lines for images that
    `metadata.jsonl` lacks."""
    OVERWRITE = "overwrite"
    """Replace them."""
    IMPORT = "import"
    """Keep every caption in them, and write only what they lack: sidecars that are empty, fields
    and lines of `metadata.jsonl`, properties of XMP."""


class HubImages(StrEnum):
    """Where a dataset for the Hugging Face Hub has its images."""

    EMBED = "embed"
    """In its files."""
    ADDRESSES = "addresses"
    """At their addresses: whoever reads an image needs access to it."""


class SameStem(StrEnum):
    """Names of the sidecars of images whose names differ only in the suffix."""

    SUFFIX = "suffix"
    """Each keeps its suffix: `x.jpg.txt` and `x.png.txt`."""
    FIRST = "first"
    """The first by image id is `x.txt`; the others get no sidecar."""
    ERROR = "error"
    """Stop, and name them, before anything is written."""


class Shards(StrEnum):
    """Tars of an export to WebDataset."""

    PARTS = "parts"
    """One per part of the output, with images, captions and rows."""
    WHOLE = "whole"
    """One per tar of the source, with the samples that have a caption."""
    CAPTIONS = "captions"
    """One per tar of the source, with the captions and rows alone."""


class Naming(StrEnum):
    """Names of the files that an export writes beside images."""

    STEM = "stem"
    """The suffix of the image is replaced: `a/b.jpg` has `a/b.txt`."""
    FULL = "full"
    """A suffix is added: `a/b.jpg` has `a/b.jpg.txt`."""


class Layout(StrEnum):
    """Where an export writes `metadata.jsonl`."""

    ROOT = "root"
    """One file for all images."""
    FOLDER = "folder"
    """One in each folder of images."""


class Gone(StrEnum):
    """What becomes of images that are no longer in the source."""

    KEEP = "keep"
    DROP = "drop"


class EditsMode(StrEnum):
    """What becomes of the edits of reviewers where captions are read."""

    APPLY = "apply"
    """Captions are as reviewers left them."""
    IGNORE = "ignore"
    """Captions are those of the run."""
    ONLY = "only"
    """Only captions that a reviewer has written or approved; not those rejected."""


class MissingPolicy(StrEnum):
    """Treatment of images of the references for which a system has no caption."""

    ERROR = "error"
    """Stop, and list them."""
    WORST = "worst"
    """Score them 0, as empty captions."""
    DROP = "drop"
    """Compare only on images for which every system has a caption."""
