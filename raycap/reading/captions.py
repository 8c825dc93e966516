"""The rows of an output of `raycap caption`, finished or not: those that are committed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.ledger import foreign_part, foreign_reason
from raycap.captioning.output import as_edited, check_asked, prompts_of_run, read_ahead
from raycap.captioning.parts import CAPTIONS, CaptionsFooter, read_captions_head, read_part
from raycap.captioning.plan import CaptionPlan, read_plan
from raycap.config import EditsMode, StorageConfig
from raycap.edits.overlay import NEEDED, Overlay
from raycap.errors import DatasetError
from raycap.reading.parts import Content, Part, conformed, unified
from raycap.results.captioning import (
    Summary,
    is_complete,
    read_caption_run,
    read_summary,
    run_setting,
)
from raycap.runs.records import fingerprint_digest
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import list_parts, part_key
from raycap.storage.stores import open_store

_OF_ANSWER = (*schema.KEPT.names, schema.VALUE)
"""Fields of a named prompt's column that are columns of their own for the chosen prompt."""


@dataclass(frozen=True, kw_only=True)
class CaptionRows(Content):
    """Committed rows, with the answers to one prompt as columns and those to all as structs."""

    uri: str
    config: StorageConfig
    prompt: str | None
    prompts: tuple[str, ...]
    overlay: Overlay
    """The edits of reviewers."""
    edits: EditsMode
    """What becomes of them."""
    schema: pa.Schema
    read_ahead: int

    @property
    def changes_count(self) -> bool:
        """Whether rows without an edit are left out."""
        return self.edits is EditsMode.ONLY

    @cached_property
    def _store(self) -> Store:
        return open_store(self.uri, self.config)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_store"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)

    def tables(self, part: Part, columns: list[str]) -> Iterator[pa.Table]:
        """Read columns of a part, as a table."""
        known = part.columns | set(schema.CAPTIONS.names)
        needed = () if self.edits is EditsMode.IGNORE else NEEDED
        fields = [name for name in columns if name not in part.columns and name in _OF_ANSWER]
        stored = [*(name for name in columns if name in known), *needed]
        if fields and self.prompt is not None:
            stored.append(self.prompt)
        wanted = list(dict.fromkeys(stored)) or [schema.IMAGE_ID]
        table = read_part(self._store, CAPTIONS, part.number, wanted, self.prompt)
        table = as_edited(table, self.overlay, self.edits, self.prompt, self.prompts)
        for name in fields:
            if self.prompt is not None and _has_field(table[self.prompt].type, name):
                table = table.append_column(name, pc.struct_field(table[self.prompt], name))
        yield conformed(table, pa.schema([self.schema.field(name) for name in columns]))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCaptions:
    """An output of `raycap caption` as it was when it was opened."""

    rows: CaptionRows
    parts: list[Part]
    prompts: tuple[str, ...]
    summary: Summary | None = None
    """None if the run has not ended, or its captions are being rewritten."""


def open_captions(
    store: Store, config: StorageConfig, prompt: str | None, edits: EditsMode = EditsMode.APPLY
) -> OpenedCaptions:
    """Open an output by its footers.

    Args:
        store: The output.
        config: How it is reached.
        prompt: The named prompt whose answers are columns; None for the first, if there is any.
        edits: What becomes of the edits of reviewers.

    Raises:
        DatasetError: it was not asked this prompt, or is damaged.
    """
    run = read_caption_run(store)
    ends = is_complete(store)  # before the parts are listed: later ones are of another invocation
    plan = read_plan(store, config.list_threads)
    numbers = sorted(set(list_parts(store, CAPTIONS)) & plan.parts.keys())
    digest = fingerprint_digest(run_setting(run, "fingerprint") or {})
    heads = list(
        ordered_map(partial(_read_head, store, plan, digest), numbers, config.list_threads)
    )
    asked = dict.fromkeys(name for footer, _ in heads for name in footer.prompts)
    prompts = prompts_of_run(store, run) or tuple(asked)
    chosen = prompt or next(iter(prompts), None)
    if prompt is not None and prompt not in prompts:
        check_asked(store, prompt, prompts, is_asked=prompt in asked)
    # A part that was not asked the prompt yet has no row so far.
    shown = [
        (number, footer, stored)
        for number, (footer, stored) in zip(numbers, heads, strict=True)
        if chosen is None or chosen in footer.prompts
    ]
    overlay = Overlay({}) if edits is EditsMode.IGNORE else Overlay.open(store, config)
    columns = _columns_of(store, [stored for _, _, stored in shown], prompts, chosen)
    if not overlay.is_empty:
        marks = [mark for mark in schema.EDIT_MARKS if mark.name not in columns.names]
        columns = pa.schema([*columns, *marks])
    rows = CaptionRows(
        uri=store.uri,
        config=config,
        prompt=chosen,
        prompts=tuple(asked),
        overlay=overlay,
        edits=edits,
        schema=columns,
        read_ahead=read_ahead(plan, config) if plan.parts else 1,
    )
    names = {stored: frozenset(stored.names) for stored in {stored for _, _, stored in shown}}
    parts = [_part(plan, number, footer, names[stored]) for number, footer, stored in shown]
    return OpenedCaptions(
        rows=rows,
        parts=parts,
        prompts=prompts,
        summary=read_summary(store) if ends and len(parts) == len(plan.parts) else None,
    )


def _read_head(
    store: Store, plan: CaptionPlan, run: str, number: int
) -> tuple[CaptionsFooter, pa.Schema]:
    footer, stored = read_captions_head(store, number)
    reason = foreign_reason(footer, plan.parts[number], run)
    if reason is not None:
        raise foreign_part(store, number, reason)
    return footer, stored.remove_metadata()


def _part(plan: CaptionPlan, number: int, footer: CaptionsFooter, columns: frozenset[str]) -> Part:
    manifest = plan.parts[number]
    return Part(
        key=part_key(CAPTIONS, number),
        first=manifest.first,
        last=manifest.last,
        num_rows=footer.num_rows,
        number=number,
        columns=columns,
    )


def _columns_of(
    store: Store, stored: list[pa.Schema], prompts: tuple[str, ...], prompt: str | None
) -> pa.Schema:
    """Return all columns of the rows: of CAPTIONS, of the chosen prompt, of the run, of prompts."""
    hidden = {schema.CONTEXT_DIGESTS, *schema.CAPTIONS.names}
    try:
        found = unified(dict.fromkeys(stored)) if stored else pa.schema([])
    except pa.ArrowException as error:
        raise DatasetError(
            f"{store.uri}: its parts have columns of different types ({error}), because the run "
            "was changed and has not ended; finish it: the same `raycap caption` command "
            "continues it",
            uri=store.uri,
        ) from error
    further = [one for one in found if one.name not in hidden]
    answers = [one for one in further if one.name in prompts or one.name == prompt]
    own = [one for one in further if one not in answers]
    names = {one.name for one in further}
    of_answer = [
        pa.field(name, found.field(prompt).type.field(name).type)
        for name in _OF_ANSWER
        if prompt in names and name not in names and _has_field(found.field(prompt).type, name)
    ]
    return pa.schema([*schema.CAPTIONS, *of_answer, *own, *answers])


def _has_field(kind: pa.DataType, name: str) -> bool:
    return bool(pa.types.is_struct(kind)) and kind.get_field_index(name) >= 0
