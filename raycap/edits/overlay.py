"""The edits of an output over its rows: captions as reviewers left them.

Captions parts are never rewritten for an edit. Whoever reads captions reads them through this.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.config import EditsMode, StorageConfig
from raycap.edits.history import History
from raycap.edits.log import EditLog
from raycap.edits.records import EditState, Review
from raycap.parsing import parse_json
from raycap.storage.base import Store
from raycap.text import count_words

NEEDED = (schema.IMAGE_ID, schema.ETAG, schema.DIGEST, schema.STATUS, schema.CAPTION)
"""Columns without which no edit can be applied."""

_TEXT, _REVIEW, _SEEN = "text", "review", "seen"
_STATES = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(_TEXT, pa.string()),
        pa.field(_REVIEW, pa.string()),
        pa.field(_SEEN, pa.string()),
        pa.field(schema.DIGEST, pa.string()),
        pa.field(schema.ETAG, pa.string()),
    ]
)
_OF_THE_MODEL = (
    schema.ERROR_CODE,
    schema.ERROR_MESSAGE,
    schema.LOGPROB,
    schema.MODEL,
    schema.FINISH,
    schema.NUM_TOKENS,
    schema.FLAG,
)
"""Columns about the model's caption, which say nothing of a reviewer's text."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """The states of all edited captions, as tables; can be sent to Ray's workers."""

    states: dict[str | None, pa.Table]
    """By prompt, sorted by image id."""

    @classmethod
    def open(cls, store: Store, config: StorageConfig) -> Self:
        """Read the edits of an output.

        Args:
            store: the output.
            config: how stores are reached.

        Raises:
            DatasetError: a file of them is missing or damaged.
            StorageError: the store refuses.
        """
        return cls.of(History(EditLog(store, config.list_threads).read_new()).states())

    @classmethod
    def of(cls, states: Iterable[EditState]) -> Self:
        """Make one of states, in any order."""
        rows: defaultdict[str | None, list[EditState]] = defaultdict(list)
        for state in states:
            rows[state.prompt].append(state)
        return cls({prompt: _table(found) for prompt, found in rows.items()})

    @property
    def is_empty(self) -> bool:
        """Whether no caption has an edit that counts."""
        return not any(map(len, self.states.values()))

    def apply(
        self, table: pa.Table, prompt: str | None, mode: EditsMode, *, marks: bool = False
    ) -> pa.Table:
        """Return captions rows as reviewers left them.

        Args:
            table: rows with NEEDED at least, in any order; further columns are kept.
            prompt: the named prompt whose answers CAPTION has; None in a run without.
            mode: whether edits are applied; with `only`, rows without an edit or approval that
                holds are left out.
            marks: append the columns of EDIT_MARKS.
        """
        if mode is EditsMode.IGNORE:
            return _with_marks(table, None) if marks else table
        found = self._found(table, prompt)
        is_stale = _is_stale(table, found)
        is_edited = pc.and_(pc.is_valid(found[_TEXT]), pc.invert(is_stale))
        review = pc.if_else(is_stale, pa.scalar(None, pa.string()), found[_REVIEW])
        if pc.any(is_edited).as_py():
            table = _with_texts(table, is_edited, found[_TEXT])
        if marks:
            table = _with_marks(table, (is_edited, review, is_stale))
        if mode is EditsMode.ONLY:
            holds = pc.is_in(review, pa.array([Review.APPROVED, Review.EDITED], pa.string()))
            table = table.filter(holds)
        return table

    def apply_to_answers(self, table: pa.Table, prompt: str) -> pa.Table:
        """Return rows with the texts of reviewers in the column of a prompt, a struct of answers.

        Args:
            table: rows with NEEDED and the column.
            prompt: its name.
        """
        answers = table[prompt].combine_chunks()
        kind = answers.type
        fields = {f.name: pc.struct_field(answers, f.name) for f in kind}
        of_image = {name: table[name] for name in (schema.IMAGE_ID, schema.ETAG, schema.DIGEST)}
        flat = pa.table({**of_image, **fields})
        edited = self.apply(flat, prompt, EditsMode.APPLY, marks=True)
        if not pc.any(edited[schema.EDITED]).as_py():
            return table
        if schema.VALUE in fields:
            edited = _with_values(edited)
        values = [edited[f.name].combine_chunks() for f in kind]
        is_null = pc.and_(pc.is_null(answers), pc.invert(edited[schema.EDITED].combine_chunks()))
        column = pa.StructArray.from_arrays(values, fields=list(kind), mask=is_null)
        place = table.schema.get_field_index(prompt)
        return table.set_column(place, table.schema.field(place), column)

    def _found(self, table: pa.Table, prompt: str | None) -> pa.Table:
        """Return the state of each row; all null where it has none."""
        ids = table[schema.IMAGE_ID]
        states = self.states.get(prompt)
        if states is None or not len(table):
            return pa.table([pa.nulls(len(table), f.type) for f in _STATES], names=_STATES.names)
        # Only those between the first and the last id: the rest would be hashed for every part.
        known, bounds = states[schema.IMAGE_ID], pc.min_max(ids).as_py()
        first = bisect_left(range(len(known)), bounds["min"], key=lambda i: known[i].as_py())
        last = bisect_right(range(len(known)), bounds["max"], key=lambda i: known[i].as_py())
        near = states.slice(first, last - first)
        return near.take(pc.index_in(ids, near[schema.IMAGE_ID].combine_chunks()))


def _table(states: list[EditState]) -> pa.Table:
    states.sort(key=lambda state: state.image_id)
    columns = {
        schema.IMAGE_ID: [state.image_id for state in states],
        _TEXT: [state.text for state in states],
        _REVIEW: [state.review and str(state.review) for state in states],
        _SEEN: [state.seen for state in states],
        schema.DIGEST: [state.digest for state in states],
        schema.ETAG: [state.etag for state in states],
    }
    return pa.table(columns, schema=_STATES)


def _is_stale(table: pa.Table, found: pa.Table) -> pa.Array:
    """Return which rows have a state that is not about them: `EditState.is_stale` of columns."""
    differs = pc.coalesce(
        pc.not_equal(table[schema.DIGEST], found[schema.DIGEST]),
        pc.not_equal(table[schema.ETAG], found[schema.ETAG]),
        pa.scalar(False),
    )
    is_reviewed = pc.and_(pc.is_valid(found[_REVIEW]), pc.is_null(found[_TEXT]))
    is_other = pc.not_equal(pc.fill_null(table[schema.CAPTION], ""), pc.fill_null(found[_SEEN], ""))
    return pc.or_(differs, pc.and_(is_reviewed, is_other))


def _with_texts(table: pa.Table, is_edited: pa.Array, texts: pa.Array) -> pa.Table:
    """Put the texts of reviewers into the rows that have one."""
    words = pa.array(
        [None if text is None else count_words(text) for text in texts.to_pylist()], pa.int32()
    )
    values = {
        schema.CAPTION: texts,
        schema.STATUS: pa.scalar(schema.STATUS_OK),
        schema.NUM_WORDS: words,
        **dict.fromkeys(_OF_THE_MODEL),
    }
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        if place >= 0:
            field = table.schema.field(place)
            value = pa.scalar(None, field.type) if value is None else value
            column = pc.if_else(is_edited, value, table[name])
            table = table.set_column(place, field, column)
    return table


def _with_values(table: pa.Table) -> pa.Table:
    """Replace typed values by those of the texts of reviewers; null where a text has none."""
    place = table.schema.get_field_index(schema.VALUE)
    field = table.schema.field(place)
    rows = zip(*(table[n].to_pylist() for n in (schema.EDITED, schema.CAPTION)), strict=True)
    values = pa.array(
        [_value(text, field.type) if edited else None for edited, text in rows], field.type
    )
    column = pc.if_else(table[schema.EDITED], values, table[schema.VALUE])
    return table.set_column(place, field, column)


def _value(text: str, kind: pa.DataType) -> Any:
    try:
        return pa.scalar(parse_json(text), kind).as_py()
    except (ValueError, TypeError, pa.ArrowException):
        return None


def _with_marks(table: pa.Table, marks: tuple[pa.Array, pa.Array, pa.Array] | None) -> pa.Table:
    no = pa.repeat(False, len(table))
    marks = marks or (no, pa.nulls(len(table), pa.string()), no)
    for field, column in zip(schema.EDIT_MARKS, marks, strict=True):
        if field.name not in table.column_names:  # as a field of the source that the run keeps
            table = table.append_column(field, column)
    return table
