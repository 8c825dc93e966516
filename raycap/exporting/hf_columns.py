"""Columns of a dataset for the Hugging Face Hub, and the metadata with which `datasets` types them.

A run without named prompts has the columns of its captions. A run with named prompts has a column
per prompt: a text, or the value of a typed answer.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.output import SOURCE_URI
from raycap.errors import ConfigError
from raycap.exporting.selection import Selection, renamed
from raycap.schema import (
    ALTERNATIVES,
    CAPTION,
    CAPTIONS,
    DIGEST,
    EDITED,
    ERROR_CODE,
    ETAG,
    FINISH,
    FLAG,
    HEIGHT_PX,
    IMAGE_ID,
    LOGPROB,
    MODEL,
    NUM_TOKENS,
    NUM_WORDS,
    REVIEW,
    STALE,
    STATUS,
    STATUS_OK,
    URI,
    VALUE,
    WIDTH_PX,
)

IMAGE = "image"
IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""What `datasets` stores an image as: its file, or where to read it."""

_OF_CAPTION = (CAPTION, NUM_WORDS, LOGPROB, FINISH, NUM_TOKENS, FLAG, ALTERNATIVES)
_OF_IMAGE = (WIDTH_PX, HEIGHT_PX, MODEL, DIGEST)
_SOURCE = (IMAGE_ID, URI, ETAG, SOURCE_URI)
_DTYPES = {"float": "float32", "double": "float64"}  # where `datasets` has a name of its own
_FEATURES_KEY = b"huggingface"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The captioned rows of a part."""

    rows: pa.Table
    """The columns of the dataset, but for the image."""
    sources: pa.Table
    """For each row, what finds its image and shows whether it has changed."""
    failed: Counter[str]
    """Rows without a caption, by the code of the error."""
    num_words: dict[str, pa.ChunkedArray]
    """Words of the answer in each row, by prompt; "" in a run without named ones."""


def choose_rows(part: pa.Table, selection: Selection, prompts: Sequence[str]) -> Chosen:
    """Choose the captioned rows and the columns of the dataset.

    With named prompts, a row is captioned if any of them has an answer.

    Args:
        part: Rows as `Selection.part` gives them.
        selection: What is exported.
        prompts: The named prompts; empty in a run without them.

    Raises:
        ConfigError: a column has the name of that of the images.
    """
    if prompts:
        answers = {name: _answers(part[name]) for name in prompts}
        is_captioned = reduce(pc.or_, (answer.is_given for answer in answers.values()))
        columns = {name: answer.values for name, answer in answers.items()}
        words = {name: answer.num_words for name, answer in answers.items()}
        codes = answers[prompts[0]].codes
    else:
        is_captioned = pc.equal(part[STATUS], STATUS_OK)
        columns = {name: part[name] for name in _OF_CAPTION}
        words = {"": part[NUM_WORDS]}
        codes = part[ERROR_CODE]
    if selection.chosen is not None:
        rows = renamed(part, selection.chosen)
    else:
        # Fields of the source, marks of reviewers, and columns of a join.
        others = [name for name in selection.columns.names if name not in CAPTIONS.names]
        image = {name: part[name] for name in (*_OF_IMAGE, *others)}
        rows = pa.table({IMAGE_ID: part[IMAGE_ID], **columns, **image})
    if IMAGE in rows.column_names:
        raise ConfigError(
            f"a column of the dataset would be named {IMAGE!r}, as the images are: choose columns "
            "and their names with --columns",
            setting="columns",
        )
    failed = codes.filter(pc.invert(is_captioned)).to_pylist()
    return Chosen(
        rows=rows.filter(is_captioned),
        sources=part.select(_SOURCE).filter(is_captioned),
        failed=Counter(code or "unknown" for code in failed),
        num_words={name: column.filter(is_captioned) for name, column in words.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    values: pa.ChunkedArray
    num_words: pa.ChunkedArray
    codes: pa.ChunkedArray
    is_given: pa.ChunkedArray


def _answers(column: pa.ChunkedArray) -> _Answers:
    """Take the answers to a prompt apart; the values of failed ones are null already."""
    is_typed = column.type.get_field_index(VALUE) >= 0
    codes = pc.struct_field(column, ERROR_CODE)
    num_words = pc.struct_field(column, NUM_WORDS)
    return _Answers(
        values=pc.struct_field(column, VALUE if is_typed else CAPTION),
        num_words=pa.chunked_array([pa.nulls(len(column), pa.int32())]) if is_typed else num_words,
        codes=codes,
        is_given=pc.and_(pc.is_valid(column), pc.is_null(codes)),
    )


def dataset_schema(rows: pa.Schema) -> pa.Schema:
    """Return the schema of a dataset's files, with the types as `datasets` reads them.

    Args:
        rows: Schema of `Chosen.rows`.
    """
    fields = [pa.field(field.name, field.type) for field in rows]
    features: dict[str, Any] = {IMAGE: {"_type": "Image"}}
    features |= {field.name: _feature(field.type) for field in fields}
    metadata = {_FEATURES_KEY: json.dumps({"info": {"features": features}}).encode()}
    return pa.schema([pa.field(IMAGE, IMAGE_TYPE), *fields], metadata)


def _feature(kind: pa.DataType) -> Any:
    """Describe a type; lists in the notation that all versions of `datasets` read."""
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    return {"dtype": _DTYPES.get(str(kind), str(kind)), "_type": "Value"}


MEANINGS = {
    IMAGE: "the image",
    IMAGE_ID: "its key relative to the source",
    CAPTION: "the caption",
    NUM_WORDS: "words of the caption",
    LOGPROB: "mean log-probability of the caption's tokens under the model",
    FINISH: "how the caption ended: `stop`, or `length` if it was cut",
    NUM_TOKENS: "tokens of the caption",
    FLAG: "code of a doubtful answer that was kept",
    ALTERNATIVES: "other captions of the model",
    WIDTH_PX: "width of the image, upright",
    HEIGHT_PX: "height of the image, upright",
    MODEL: "model that wrote the caption",
    DIGEST: "SHA-256 of the image file that was captioned",
    EDITED: "whether a person has written the caption",
    REVIEW: "what a person has made of the caption: `approved`, `rejected` or `edited`",
    STALE: "whether the image or the model's caption has changed since",
}
"""What the columns mean; those of prompts and kept fields are named by the run."""
