"""Reading of the output of a finished run, part by part in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from raycap.captioning.ledger import Ledger, read_ledger
from raycap.captioning.parts import CAPTIONS, MANIFEST, read_captions_footer, read_part
from raycap.captioning.plan import CaptionPlan, read_plan
from raycap.config import EditsMode, ImageConfig, StorageConfig
from raycap.edits.overlay import NEEDED, Overlay
from raycap.errors import DatasetError
from raycap.results.captioning import (
    is_complete,
    present_text,
    read_caption_run,
    read_summary,
    run_setting,
    source_dataset,
    text_digest,
)
from raycap.runs.records import fingerprint_digest
from raycap.schema import CAPTIONS as CAPTION_COLUMNS
from raycap.schema import EDIT_MARKS, IMAGE_ID, ROW, URI
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store

SOURCE_URI = "source_uri"
"""Column with the address to fetch an image from; `uri` of a caption row has no secrets."""

_ROWS_AHEAD = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedOutput:
    """An output in which every image has a row."""

    store: Store
    config: StorageConfig
    parts: list[int]
    """Numbers of the parts, ascending."""
    num_images: int
    """Without those that are dropped or, with `EditsMode.ONLY`, have no edit."""
    read_ahead: int
    """Parts to read at the same time."""
    max_image_bytes: int
    """Largest image file that the run accepted."""
    dataset: str | None
    """Address of the run's source if that is a caption dataset, which may contain the images."""
    prompt: str | None = None
    """The named prompt whose answers are read as captions; None in a run without named prompts."""
    prompts: tuple[str, ...] = ()
    """The named prompts of the run, in order."""
    keep: tuple[str, ...] = ()
    """Fields of the source that the run keeps, as columns of text."""
    dropped: dict[int, list[int]] = field(default_factory=dict)
    """Rows by part that are left out, because their images are gone from the source."""

    overlay: Overlay = field(default_factory=lambda: Overlay({}))
    """The edits of reviewers."""
    edits: EditsMode = EditsMode.APPLY
    """What becomes of them."""

    @property
    def is_edited(self) -> bool:
        """Whether its rows are read through edits."""
        return self.edits is not EditsMode.IGNORE and not self.overlay.is_empty

    @property
    def marks(self) -> list[str]:
        """The columns of EDIT_MARKS that its rows have: none without edits."""
        return [name for name in EDIT_MARKS.names if self.is_edited and name not in self.keep]

    @property
    def num_dropped(self) -> int:
        """Images that are left out."""
        return sum(map(len, self.dropped.values()))

    @property
    def columns(self) -> pa.Schema:
        """The columns of its rows: those of CAPTIONS, and the fields that the run keeps.

        Those of EDIT_MARKS too, if there are edits.
        """
        kept = [pa.field(name, pa.string()) for name in self.keep]
        marks = [EDIT_MARKS.field(name) for name in self.marks]
        return pa.schema([*CAPTION_COLUMNS, *kept, *marks])

    def pages(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the captions parts in order, with these columns or all of `columns`.

        The columns of EDIT_MARKS can be read from any output.
        """

        def read(number: int) -> pa.Table:
            wanted = self.columns.names if columns is None else columns
            return self._read(number, wanted).select(wanted)

        return ordered_map(read, self.parts, self.read_ahead)

    def image_ids(self) -> Iterator[list[str]]:
        """Yield the ids of each part, of dropped images too."""
        read = partial(read_part, self.store, CAPTIONS, columns=[IMAGE_ID])
        for page in ordered_map(read, self.parts, self.read_ahead):
            yield page[IMAGE_ID].to_pylist()

    def part(self, number: int) -> pa.Table:
        """Read a captions part, with the answers to all prompts, the row number and SOURCE_URI.

        Raises:
            DatasetError: its rows are not those of its manifest part.
        """
        prompts = self.prompts if self.prompt is None else (*self.prompts, self.prompt)
        wanted = [*CAPTION_COLUMNS.names, *self.keep, *dict.fromkeys(prompts)]
        table = read_part(self.store, CAPTIONS, number, wanted, self.prompt)
        manifest = read_part(self.store, MANIFEST, number, [IMAGE_ID, URI])
        if not table[IMAGE_ID].equals(manifest[IMAGE_ID]):
            raise DatasetError(
                f"{self.store.address(part_key(CAPTIONS, number))}: belongs to another manifest; "
                "delete the file and run the same `raycap caption` command again",
                uri=self.store.address(part_key(CAPTIONS, number)),
            )
        numbered = table.append_column(ROW, pa.array(range(len(table)), pa.int32()))
        numbered = numbered.append_column(SOURCE_URI, manifest[URI])
        return self._as_edited(self._without_dropped(number, numbered))

    def _read(self, number: int, columns: list[str]) -> pa.Table:
        """Read a part with these columns, and others if edits need them."""
        marks = [name for name in columns if name in EDIT_MARKS.names and name not in self.keep]
        stored = [name for name in columns if name not in marks]
        needed = NEEDED if marks or self.is_edited or self.edits is EditsMode.ONLY else ()
        wanted = list(dict.fromkeys([*stored, *needed]))
        table = read_part(self.store, CAPTIONS, number, wanted, self.prompt)
        table = self._as_edited(self._without_dropped(number, table))
        if marks and not self.is_edited:  # whoever asks for them need not know of edits
            table = self.overlay.apply(table, self.prompt, EditsMode.IGNORE, marks=True)
        return table

    def _as_edited(self, table: pa.Table) -> pa.Table:
        """Apply the edits to rows, those of other prompts in their columns."""
        return as_edited(table, self.overlay, self.edits, self.prompt, self.prompts)

    def _without_dropped(self, number: int, table: pa.Table) -> pa.Table:
        if number not in self.dropped:
            return table
        dropped = set(self.dropped[number])
        return table.filter(pa.array([row not in dropped for row in range(len(table))]))


def as_edited(
    table: pa.Table,
    overlay: Overlay,
    edits: EditsMode,
    prompt: str | None,
    prompts: Sequence[str],
) -> pa.Table:
    """Apply the edits of reviewers to rows with NEEDED, those of other prompts in their columns.

    Args:
        table: the rows.
        overlay: the edits.
        edits: what becomes of them.
        prompt: the named prompt whose answers CAPTIONS has.
        prompts: all named prompts.
    """
    is_edited = edits is not EditsMode.IGNORE and not overlay.is_empty
    if not is_edited and edits is not EditsMode.ONLY:
        return table
    for name in prompts:
        if name in table.column_names:
            table = overlay.apply_to_answers(table, name)
    return overlay.apply(table, prompt, edits, marks=is_edited)


def open_finished(
    uri: str,
    config: StorageConfig,
    *,
    drops_gone: bool = False,
    prompt: str | None = None,
    edits: EditsMode = EditsMode.APPLY,
) -> FinishedOutput:
    """Open the output of a finished run.

    Args:
        uri: its address.
        config: how stores are reached.
        drops_gone: leave out images that were missing from the source when it was last listed.
        prompt: the named prompt whose answers to read; None for the first, if the run has any.
        edits: what becomes of the edits of reviewers.

    Raises:
        DatasetError: it is not an output of raycap, is damaged, or is unfinished; or its edits are
            damaged.
        StorageError: it cannot be read.
    """
    store = open_store(uri, config)
    run = read_caption_run(store)
    plan = read_plan(store, config.list_threads)
    digest = fingerprint_digest(run_setting(run, "fingerprint") or {})
    ledger = read_ledger(
        store,
        plan,
        retry_failed=False,
        num_threads=config.list_threads,
        run=digest,
        text=text_digest(present_text(run)),
    )
    check_finished(store, plan, ledger)
    _check_reworded(store, ledger)
    dropped = {n: part.gone for n, part in plan.parts.items() if part.gone and drops_gone}
    prompts = prompts_of_run(store, run)
    is_read = edits is not EditsMode.IGNORE
    output = FinishedOutput(
        store=store,
        config=config,
        parts=sorted(plan.parts),
        num_images=plan.num_images - sum(map(len, dropped.values())),
        dropped=dropped,
        read_ahead=read_ahead(plan, config),
        max_image_bytes=_max_image_bytes(run),
        dataset=source_dataset(run),
        prompt=_chosen(store, prompts, plan, config, prompt),
        prompts=prompts,
        keep=tuple(run_setting(run, "fingerprint", "context", "keep") or ()),
        overlay=Overlay.open(store, config) if is_read else Overlay({}),
        edits=edits,
    )
    if edits is EditsMode.ONLY:
        return replace(output, num_images=sum(map(len, output.pages([IMAGE_ID]))))
    return output


def prompts_of_run(store: Store, run: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the prompts that a run was last asked."""
    if is_complete(store):
        return tuple(read_summary(store).prompts)
    return tuple(run_setting(run, "config", "prompts") or ())


def _chosen(
    store: Store,
    prompts: tuple[str, ...],
    plan: CaptionPlan,
    config: StorageConfig,
    asked: str | None,
) -> str | None:
    """Return the prompt to read; one of an earlier invocation will do if all parts have it.

    Raises:
        DatasetError: not all images were asked it.
    """
    if asked is None or asked in prompts:
        return asked or next(iter(prompts), None)
    footers = ordered_map(
        partial(read_captions_footer, store), sorted(plan.parts), config.list_threads
    )
    check_asked(store, asked, prompts, is_asked=all(asked in footer.prompts for footer in footers))
    return asked


def check_asked(store: Store, prompt: str, prompts: tuple[str, ...], *, is_asked: bool) -> None:
    """Raise DatasetError if an output was not asked a prompt; `prompts` are those that it was."""
    if is_asked:
        return
    has = f"its prompts are: {', '.join(prompts)}" if prompts else "it has no named prompts"
    raise DatasetError(
        f"{store.uri}: was not asked a prompt named {prompt!r}; {has}",
        uri=store.uri,
        setting="prompt",
    )


def _check_reworded(store: Store, ledger: Ledger) -> None:
    """Raise DatasetError if the captions do not all follow the same rules for the text."""
    if ledger.num_reworded:
        raise DatasetError(
            f"{store.uri}: {ledger.num_reworded:,} captions do not follow the present rules for "
            "the text yet; run the same `raycap caption --again text` command again",
            uri=store.uri,
        )


def check_finished(store: Store, plan: CaptionPlan, ledger: Ledger) -> None:
    """Raise DatasetError if a part is pending, or images await a caption."""
    num_pending = len(ledger.missing) + len(ledger.partial)
    if num_pending or not plan.parts:
        raise DatasetError(
            f"{store.uri}: {num_pending} of {len(plan.parts)} parts are not captioned yet; "
            "finish the run first: the same `raycap caption` command continues it",
            uri=store.uri,
        )
    if ledger.totals.num_awaiting_original:
        raise DatasetError(
            f"{store.uri}: {ledger.totals.num_awaiting_original:,} images await the captions of "
            "equal images; finish the run first: the same `raycap caption` command continues it",
            uri=store.uri,
        )
    if ledger.totals.num_awaiting:
        raise DatasetError(
            f"{store.uri}: {ledger.totals.num_awaiting:,} images await the second model; finish "
            "the run first: the same `raycap caption` command continues it",
            uri=store.uri,
        )


def read_ahead(plan: CaptionPlan, config: StorageConfig) -> int:
    """Return how many parts to read at once: bounds the rows in memory, whatever their size."""
    largest = max(part.num_rows for part in plan.parts.values())
    return max(1, min(config.list_threads, _ROWS_AHEAD // largest))


def _max_image_bytes(run: dict[str, Any]) -> int:
    """Return the largest image file that a run accepts; older runs do not say."""
    found = run_setting(run, "config", "image", "max_bytes")
    return found if isinstance(found, int) else ImageConfig().max_bytes
