"""Verification: manifest = ok + failed + pending, no duplicate ids, every part is complete.

What was planned (`plan.json`), the manifest, the captions and all footers must agree. It reads
every part once, a few at the same time, and needs neither Ray nor the model.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.columns import recorded_context
from raycap.captioning.context import stale_fields
from raycap.captioning.ledger import foreign_reason
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    CaptionsFooter,
    ManifestFooter,
    ids_digest,
    read_captions_part,
    read_manifest_part,
)
from raycap.captioning.plan import CaptionPlan, SortedRun, read_plan, sorted_runs
from raycap.config import StorageConfig
from raycap.edits.history import History
from raycap.edits.log import EDITS, EditLog
from raycap.errors import DatasetError, ErrorCode
from raycap.results.captioning import (
    PLAN,
    Verification,
    is_complete,
    present_text,
    read_caption_run,
    read_plan_record,
    read_skipped,
    run_setting,
    text_digest,
)
from raycap.runs.records import fingerprint_digest
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import list_parts, part_key
from raycap.storage.stores import open_store

_CODES = pa.array([str(code) for code in ErrorCode])
_SHOWN = 5


def verify(output: str | Path, *, storage: StorageConfig | None = None) -> Verification:
    """Check an output against its manifest.

    Raises:
        DatasetError: it is not an output of `raycap caption`, no image was planned in it, or its
            manifest is damaged.
        StorageError: it cannot be read.
    """
    config = storage or StorageConfig()
    store = open_store(str(output), config)
    run = read_caption_run(store)
    plan = read_plan(store, config.list_threads)
    if not plan.parts:
        raise DatasetError(
            f"{store.uri}: no image was planned yet: the run ended before it had listed its "
            "source; run the same `raycap caption` command",
            uri=store.uri,
        )
    found = Verification(
        num_images=plan.num_images,
        num_gone=plan.num_gone,
        has_summary=is_complete(store),
        skipped=read_skipped(store),
    )
    committed = set(list_parts(store, CAPTIONS))
    _check_plan(found, store, plan, committed)
    check = _Check(store, plan, run)
    history = _read_edits(found, store, config.list_threads)
    unknown = {image_id for _, image_id in history.keys}
    check.edited = frozenset(unknown)
    for part in ordered_map(check.part, sorted(committed & plan.parts.keys()), config.list_threads):
        found.num_ok += part.num_ok
        found.failed.update(part.failed)
        found.num_pending += part.num_pending
        unknown -= part.edited
        for problem in part.problems:
            found.report(problem)
    found.num_failed = found.failed.total()
    for image_id in _repeated_ids(store, plan, config.list_threads):
        found.report(f"{image_id!r}: occurs more than once in the manifest")
    found.num_edits = len(history)
    if unknown:
        some = ", ".join(map(repr, sorted(unknown)[:_SHOWN]))
        more = ", ..." if len(unknown) > _SHOWN else ""
        found.notes.append(
            f"{EDITS}: edits of {len(unknown):,} images that have no caption here ({some}{more}); "
            "they are kept"
        )
    return found


def _read_edits(found: Verification, store: Store, num_threads: int) -> History:
    """Read the edits; what is wrong with them is a problem."""
    try:
        return History(EditLog(store, num_threads).read_new())
    except DatasetError as error:
        found.report(str(error))
        return History()


def _check_plan(found: Verification, store: Store, plan: CaptionPlan, committed: set[int]) -> None:
    """Compare the parts that there are with those that were planned."""
    record = read_plan_record(store)
    if record is not None and record.num_images != plan.num_images:
        found.report(
            f"{PLAN}: {record.num_images:,} images were planned, but the manifest has "
            f"{plan.num_images:,}"
        )
    for number in sorted(set(list_parts(store, MANIFEST)) - plan.parts.keys()):
        found.report(
            f"{part_key(MANIFEST, number)}: is not in {PLAN}; the next run of the same command "
            "deletes it"
        )
    for number in sorted(committed - plan.parts.keys()):
        found.report(f"{part_key(CAPTIONS, number)}: belongs to no manifest part")
    for number in sorted(plan.parts.keys() - committed):
        found.num_pending += plan.parts[number].num_rows


@dataclass(kw_only=True)
class _PartCheck:
    """Result of checking one part."""

    num_ok: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    num_pending: int = 0
    problems: list[str] = field(default_factory=list)
    edited: frozenset[str] = frozenset()
    """Its images that have edits."""


class _Check:
    """The check of one part after the other."""

    def __init__(self, store: Store, plan: CaptionPlan, run: dict[str, Any]) -> None:
        fingerprint = run_setting(run, "fingerprint") or {}
        self._store = store
        self._plan = plan
        self._text = text_digest(present_text(run))
        self._run = fingerprint_digest(fingerprint)
        self._is_cascade = "cascade" in fingerprint
        self.edited: frozenset[str] = frozenset()
        """Images that have edits."""

    def part(self, number: int) -> _PartCheck:
        """Check a part: its two files, and their footers."""
        check = _PartCheck()
        name = part_key(CAPTIONS, number)
        manifest, planned = read_manifest_part(self._store, number)
        _check_manifest(check, part_key(MANIFEST, number), manifest, planned)
        if self.edited:
            check.edited = self.edited.intersection(manifest[schema.IMAGE_ID].to_pylist())
        try:
            captions, footer = read_captions_part(self._store, number)
        except DatasetError as error:
            check.problems.append(str(error))
            return check
        if not set(captions.schema.names) >= set(schema.CAPTIONS.names):
            check.problems.append(f"{name}: has other columns than a captions part")
            return check
        if not captions[schema.IMAGE_ID].equals(manifest[schema.IMAGE_ID]):
            check.problems.append(
                f"{name}: its {len(captions)} rows are not the {len(manifest)} images of its "
                "manifest"
            )
            return check
        reason = foreign_reason(footer, planned, self._run)
        if reason is not None:
            check.problems.append(f"{name}: {reason}")
            return check
        _check_footer(check, name, captions, footer)
        _count_rows(check, name, manifest, captions, has_prompts=bool(footer.prompts))
        if self._is_cascade and not check.problems:  # the second model is awaited: pending
            check.num_pending += footer.num_awaiting
            check.num_ok -= footer.num_awaiting
        if footer.text != self._text and not check.problems:  # other rules are applied: pending
            check = _PartCheck(num_pending=len(captions), edited=check.edited)
        return check


def _check_manifest(check: _PartCheck, name: str, rows: pa.Table, footer: ManifestFooter) -> None:
    ids = rows[schema.IMAGE_ID]
    claimed = (footer.num_rows, footer.first, footer.last)
    if not len(rows) or claimed != (len(rows), ids[0].as_py(), ids[-1].as_py()):
        check.problems.append(f"{name}: its footer claims {footer.num_rows:,} other rows")
    elif footer.ids and footer.ids != ids_digest(rows):
        check.problems.append(f"{name}: its footer claims other image ids")


def _check_footer(check: _PartCheck, name: str, rows: pa.Table, footer: CaptionsFooter) -> None:
    """Compare the counts of a footer, which totals are taken from, with the rows."""
    failed = rows.filter(pc.equal(rows[schema.STATUS], schema.STATUS_FAILED))
    counts = (
        len(rows),
        pc.sum(rows[schema.NUM_WORDS]).as_py() or 0,
        Counter(failed[schema.ERROR_CODE].to_pylist()),
    )
    if counts != (footer.num_rows, footer.num_words, Counter(footer.failed)):
        check.problems.append(
            f"{name}: its footer claims {footer.num_rows:,} rows, {footer.num_words:,} words and "
            f"{sum(footer.failed.values()):,} failed images, which its rows do not have"
        )


def _count_rows(
    check: _PartCheck, name: str, manifest: pa.Table, captions: pa.Table, *, has_prompts: bool
) -> None:
    # A null ETag compares as null: without an ETag an image counts as unchanged.
    differs = pc.not_equal(manifest[schema.ETAG], captions[schema.ETAG])
    contexts = zip(manifest[schema.CONTEXT].to_pylist(), recorded_context(captions), strict=True)
    is_stale = pa.array([bool(stale_fields(now, before)) for now, before in contexts], pa.bool_())
    changed = pc.or_(pc.fill_null(differs, False), is_stale)
    is_ok = pc.equal(captions[schema.STATUS], schema.STATUS_OK)
    has_code = pc.is_in(captions[schema.ERROR_CODE], value_set=_CODES)
    if not has_prompts:  # otherwise one answer may have failed, and another not
        has_code = pc.and_(pc.is_null(captions[schema.CAPTION]), has_code)
    well_formed = pc.if_else(
        is_ok,
        pc.and_(pc.is_valid(captions[schema.CAPTION]), pc.is_null(captions[schema.ERROR_CODE])),
        has_code,
    )
    for image_id in captions.filter(pc.invert(well_formed))[schema.IMAGE_ID].to_pylist():
        check.problems.append(f"{name}: {image_id!r} is neither captioned nor failed with a code")
    check.num_pending = pc.sum(changed).as_py() or 0
    answered = captions.filter(pc.invert(changed))
    check.num_ok = pc.sum(pc.equal(answered[schema.STATUS], schema.STATUS_OK)).as_py() or 0
    codes = answered.filter(pc.equal(answered[schema.STATUS], schema.STATUS_FAILED))
    check.failed.update(codes[schema.ERROR_CODE].to_pylist())
    check.num_pending += check.failed.pop(ErrorCode.AWAITS_ORIGINAL, 0)


def _repeated_ids(store: Store, plan: CaptionPlan, num_threads: int) -> Iterator[str]:
    """Yield duplicate ids, by reading the sorted runs of the manifest in parallel."""
    runs = [SortedRun(store, numbers, num_threads) for numbers in sorted_runs(plan)]
    # The last id of each part bounds a key range up to which every sorted run is read.
    for last in sorted({footer.last for footer in plan.parts.values()}):
        ids = [table[schema.IMAGE_ID] for run in runs for table in run.take_through(last)]
        if not ids:
            continue
        counts = pc.value_counts(pa.chunked_array([c for part in ids for c in part.chunks]))
        repeated = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
        yield from pc.struct_field(repeated, "values").to_pylist()
