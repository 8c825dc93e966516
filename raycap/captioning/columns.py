"""From answered rows to the columns of a captions part.

In the stream, a row is the answer to one prompt about one image. In a captions part, a row is an
image: with a column per answer field in a run with one prompt, and with a struct column per prompt
in a run with named prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int32

from raycap import schema
from raycap.answers.typed import answer_type
from raycap.captioning.context import Context
from raycap.captioning.prompts import Prompt, is_named
from raycap.config import TextConfig
from raycap.errors import ErrorCode, ImageError
from raycap.storage.address import redact_text

_OF_IMAGE = [
    name
    for name in schema.CAPTIONS.names
    if name not in schema.ANSWER_FIELDS or name in (schema.ERROR_CODE, schema.ERROR_MESSAGE)
]
"""Columns of an image in a run with named prompts. Its error is the first of its answers."""
_MESSAGE_CHARS = 500


def failure(error: ImageError) -> dict[str, Any]:
    """Return the columns of a failed row."""
    return {
        schema.STATUS: schema.STATUS_FAILED,
        schema.ERROR_CODE: str(error.code),
        schema.ERROR_MESSAGE: redact_text(error.message)[:_MESSAGE_CHARS],
    }


def recorded_context(rows: pa.Table) -> list[str | None]:
    """Return the digests of what was filled in for the rows of a captions part."""
    if schema.CONTEXT_DIGESTS not in rows.column_names:
        return [None] * len(rows)
    found: list[str | None] = rows[schema.CONTEXT_DIGESTS].to_pylist()
    return found


def _context_columns(context: Context | None) -> list[pa.Field]:
    """Return the columns of an image in a run whose prompts have fields, or that keeps fields."""
    if context is None:
        return []
    return [pa.field(name, pa.string()) for name in (schema.CONTEXT_DIGESTS, *context.keep)]


def _with_kept(answered: pa.Table, context: Context | None) -> pa.Table:
    """Give ANSWERED rows the fields that the run keeps as columns."""
    for index, name in enumerate(() if context is None else context.keep):
        answered = answered.append_column(
            name, pc.list_element(answered[schema.KEPT_FIELDS], index)
        )
    return answered


def _with_columns(rows: pa.Table, columns: Iterable[pa.Field]) -> pa.Table:
    """Give the rows of a part the columns that it lacks, as it was written without them."""
    for field in columns:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows


class CaptionColumns:
    """The columns of a run with one prompt."""

    num_prompts = 1
    digests: Mapping[str, str] = {}

    def __init__(self, *, keeps_answer: bool = False, context: Context | None = None) -> None:
        self._context = context
        kept = schema.KEPT if keeps_answer else ()
        self._columns = pa.schema([*schema.CAPTIONS, *kept, *_context_columns(context)])

    def rows(self, answered: pa.Table, old: pa.Table | None) -> pa.Table:
        """Return the rows of a part.

        Args:
            answered: ANSWERED rows: of a new part, all.
            old: The rows of the existing part, some of which are replaced.
        """
        new = _with_kept(answered, self._context).sort_by(schema.ROW)
        rows = new.select(self._columns.names).cast(self._columns)
        if old is None:
            return rows
        before = old.select(self._columns.names).cast(self._columns)
        return _replaced(before, rows, new[schema.ROW].to_numpy())


def _replaced(old: pa.Table, new: pa.Table, rows: Int32[np.ndarray, " r"]) -> pa.Table:
    """Replace the rows at these positions."""
    source = np.arange(len(old))
    source[rows] = len(old) + np.arange(len(rows))
    return pa.concat_tables([old, new]).take(pa.array(source))


class AnswerColumns:
    """The columns of a run with named prompts."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        keeps_answer: bool = False,
        context: Context | None = None,
    ) -> None:
        self._context = context
        self._of_context = _context_columns(context)
        self._of_image = [*_OF_IMAGE, *(field.name for field in self._of_context)]
        self.num_prompts = len(prompts)
        self._prompts = prompts
        self._keeps_answer = keeps_answer
        self._types = [
            None if prompt.json_schema is None else answer_type(prompt.json_schema)
            for prompt in prompts
        ]
        self.digests = {prompt.name: prompt.digest for prompt in prompts}

    def rows(self, answered: pa.Table, old: pa.Table | None) -> pa.Table:
        """Return the rows of a part.

        Args:
            answered: ANSWERED rows: of a new part, all answers about all its images.
            old: The rows of the existing part, some answers of which are replaced. Columns of
                other prompts are kept, except of images that have changed.
        """
        answered = _with_kept(answered, self._context)
        first = answered.filter(answered[schema.IS_FIRST]).sort_by(schema.ROW)
        images = first.select(self._of_image)
        others: dict[str, pa.Array] = {}
        if old is not None:
            rows = first[schema.ROW].to_numpy()
            old = _with_columns(old, self._of_context)
            others = self._others(old, _changed(old, images, rows))
            images = _replaced(old.select(self._of_image).cast(images.schema), images, rows)
        columns = {
            prompt.name: self._answers(index, prompt.name, answered, old, len(images))
            for index, prompt in enumerate(self._prompts)
        }
        for name, column in {**columns, **others}.items():
            images = images.append_column(name, column)
        return with_status(images, [prompt.name for prompt in self._prompts])

    def _others(self, old: pa.Table, changed: Bool[np.ndarray, " n"]) -> dict[str, pa.Array]:
        """Return the columns of prompts that the run no longer has, without changed images."""
        kept = {
            name: old[name].combine_chunks()
            for name in old.column_names
            if name not in {*self.digests, *schema.CAPTIONS.names, *self._of_image}
        }
        return {
            name: pc.if_else(changed, pa.nulls(len(column), column.type), column)
            for name, column in kept.items()
        }

    def _answers(
        self, index: int, name: str, answered: pa.Table, old: pa.Table | None, num_rows: int
    ) -> pa.Array:
        """Return the column of a prompt."""
        of_prompt = answered.filter(pc.equal(answered[schema.PROMPT], index))
        typed = self._types[index]
        kind = schema.answer_type(typed and typed.arrow, keeps_answer=self._keeps_answer)
        fields = {field.name: of_prompt[field.name].combine_chunks() for field in kind}
        if typed is not None:
            fields[schema.VALUE] = typed.array(fields[schema.VALUE].to_pylist())
        cast = [fields[field.name].cast(field.type) for field in kind]
        new = pa.StructArray.from_arrays(cast, fields=list(kind))
        places = of_prompt[schema.ROW].to_numpy()
        if old is None or name not in old.column_names or old[name].type != kind:
            before = pa.nulls(num_rows, kind)  # of another type: the prompt is asked again
        else:
            before = old[name].combine_chunks()
        return _replaced(pa.table([before], [name]), pa.table([new], [name]), places)[name]


def columns_of(
    prompts: Sequence[Prompt], text: TextConfig, context: Context | None
) -> CaptionColumns | AnswerColumns:
    """Return the columns of a run."""
    if is_named(prompts):
        return AnswerColumns(prompts, keeps_answer=text.keep_answer, context=context)
    return CaptionColumns(keeps_answer=text.keep_answer, context=context)


_OF_ANSWER = (schema.STATUS, schema.MODEL, *schema.ANSWER_FIELDS)
"""Columns of CAPTIONS that describe the caption of an image, and not the image."""
_COSTS = (schema.NUM_TOKENS, schema.NUM_PROMPT_TOKENS)


def answer_columns(rows: pa.Table, prompt: str) -> pa.Table:
    """Return what the copies of images get of their rows.

    Args:
        rows: Of a captions part.
        prompt: Name of the prompt; empty in a run without named prompts.

    Returns:
        The columns of the caption; of a named prompt its struct as `answer`, the name of the model
        and the error code.
    """
    if prompt:
        answers = rows[prompt]
        code = pc.struct_field(answers, schema.ERROR_CODE)
        columns = {schema.MODEL: rows[schema.MODEL], schema.ERROR_CODE: code}
        return pa.table({**columns, schema.ANSWER: answers})
    return _with_columns(rows, schema.KEPT).select([*_OF_ANSWER, *schema.KEPT.names])


def copy_answers(
    rows: pa.Table, answers: pa.Table, prompt: str, prompts: Sequence[str], *, counts: bool = False
) -> pa.Table:
    """Return the rows of a part, in which some have other answers.

    Args:
        rows: Of the part, as `read_captions_part` gives them.
        answers: Columns of `answer_columns`, and `row` for the rows to complete.
        prompt: Name of the prompt; empty in a run without named prompts.
        prompts: Names of all prompts.
        counts: Copy the counts of tokens, too. For the answers about another image, the model
            neither read nor generated any.
    """
    places = answers[schema.ROW].to_numpy()
    if prompt:
        own = (schema.ERROR_CODE, schema.ERROR_MESSAGE)
        stored = [n for n in rows.column_names if n not in schema.ANSWER_FIELDS or n in own]
        new = answers[schema.ANSWER] if counts else _without_costs(answers[schema.ANSWER])
        rows = with_replaced(rows.select(stored), prompt, new, places)
        model = pc.coalesce(rows[schema.MODEL].take(pa.array(places)), answers[schema.MODEL])
        return with_status(with_replaced(rows, schema.MODEL, model, places), prompts)
    for name in {*answers.column_names} & {*rows.column_names}:
        column = answers[name]
        is_free = name in _COSTS and not counts
        new = pa.nulls(len(column), column.type) if is_free else column
        rows = with_replaced(rows, name, new, places)
    return rows


def _without_costs(answers: pa.ChunkedArray) -> pa.Array:
    fields = {field.name: pc.struct_field(answers, field.name) for field in answers.type}
    for name in _COSTS:
        fields[name] = pa.nulls(len(answers), answers.type.field(name).type)
    return pa.table(fields).to_struct_array()


def with_replaced(
    rows: pa.Table, name: str, new: pa.Array | pa.ChunkedArray, places: Int32[np.ndarray, " r"]
) -> pa.Table:
    """Return rows with other values of a column at some places."""
    at = rows.schema.get_field_index(name)
    field = rows.schema.field(name)
    column = pa.table([_as(new, field.type)], schema=pa.schema([field]))
    return rows.set_column(at, field, _replaced(rows.select([name]), column, places)[name])


def _as(values: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Cast values to a type that may name the items of its lists otherwise."""
    return pa.chunked_array([pa.array([], kind), *pa.chunked_array(values).cast(kind).chunks])


def _changed(
    old: pa.Table, images: pa.Table, rows: Int32[np.ndarray, " r"]
) -> Bool[np.ndarray, " n"]:
    """Return which rows of a part are now of another image file than before."""
    before = old[schema.ETAG].take(pa.array(rows))
    differs = pc.fill_null(pc.not_equal(before, images[schema.ETAG]), False)
    changed = np.zeros(len(old), bool)
    changed[rows] = differs.to_numpy()
    return changed


def with_status(images: pa.Table, names: Sequence[str]) -> pa.Table:
    """Set the status of each image: failed if one of its answers is missing, with its reason.

    An image that awaits one of its answers from an equal image is counted by that reason.
    """
    code = message = None
    awaits = pa.chunked_array([pa.repeat(False, len(images))])
    for name in names:
        codes = pc.struct_field(images[name], schema.ERROR_CODE)
        messages = pc.struct_field(images[name], schema.ERROR_MESSAGE)
        message = messages if message is None else pc.if_else(pc.is_valid(code), message, messages)
        code = codes if code is None else pc.coalesce(code, codes)
        is_one = pc.equal(codes, str(ErrorCode.AWAITS_ORIGINAL))
        awaits = pc.or_(awaits, pc.fill_null(is_one, False))
    code = pc.if_else(awaits, str(ErrorCode.AWAITS_ORIGINAL), code)
    status = pc.if_else(pc.is_valid(code), schema.STATUS_FAILED, schema.STATUS_OK)
    values = {schema.STATUS: status, schema.ERROR_CODE: code, schema.ERROR_MESSAGE: message}
    for name, column in values.items():
        place = images.schema.get_field_index(name)
        images = images.set_column(place, images.schema.field(name), column)
    return images
