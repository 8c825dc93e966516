"""Verification: manifest = ok + failed + pending, no duplicate ids, every part is complete.

It reads every part once, a few at the same time, and needs neither Ray nor the model.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    list_parts,
    part_key,
    read_captions_footer,
    read_part,
)
from raycap.captioning.plan import CaptionPlan, SortedRun, read_plan, sorted_runs
from raycap.config import StorageConfig
from raycap.errors import DatasetError, ErrorCode
from raycap.results.captioning import Verification, read_run
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import open_store

_CODES = pa.array([str(code) for code in ErrorCode])


def verify(output: str | Path, *, storage: StorageConfig | None = None) -> Verification:
    """Check an output against its manifest.

    Raises:
        DatasetError: it is not an output of raycap, or its manifest is damaged.
        StorageError: it cannot be read.
    """
    config = storage or StorageConfig()
    store = open_store(str(output), config)
    is_cascade = "cascade" in read_run(store).get("fingerprint", {})
    plan = read_plan(store, config.list_threads)
    found = Verification(num_images=plan.num_images)
    committed = set(list_parts(store, CAPTIONS))
    for number in sorted(committed - plan.parts.keys()):
        found.report(f"{part_key(CAPTIONS, number)}: belongs to no manifest part")
    for number in sorted(plan.parts.keys() - committed):
        found.num_pending += plan.parts[number].num_rows

    def check(number: int) -> _PartCheck:
        part = _check_part(store, number)
        if is_cascade and not part.problems:
            _count_awaiting(part, store, number)
        return part

    for part in ordered_map(check, sorted(committed & plan.parts.keys()), config.list_threads):
        found.num_ok += part.num_ok
        found.failed.update(part.failed)
        found.num_pending += part.num_pending
        for problem in part.problems:
            found.report(problem)
    found.num_failed = found.failed.total()
    for image_id in _repeated_ids(store, plan, config.list_threads):
        found.report(f"{image_id!r}: occurs more than once in the manifest")
    return found


@dataclass(kw_only=True)
class _PartCheck:
    """Result of checking one part."""

    num_ok: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    num_pending: int = 0
    problems: list[str] = field(default_factory=list)


def _check_part(store: Store, number: int) -> _PartCheck:
    check = _PartCheck()
    name = part_key(CAPTIONS, number)
    manifest = read_part(store, MANIFEST, number)
    try:
        captions = read_part(store, CAPTIONS, number)
    except DatasetError as error:
        check.problems.append(str(error))
        return check
    if captions.schema.names != schema.CAPTIONS.names:
        check.problems.append(f"{name}: has other columns than a captions part")
        return check
    if captions[schema.IMAGE_ID].to_pylist() != manifest[schema.IMAGE_ID].to_pylist():
        check.problems.append(
            f"{name}: its {len(captions)} rows are not the {len(manifest)} images of its manifest"
        )
        return check
    _count_rows(check, name, manifest, captions)
    return check


def _count_rows(check: _PartCheck, name: str, manifest: pa.Table, captions: pa.Table) -> None:
    # A null ETag compares as null: without an ETag an image counts as unchanged.
    differs = pc.not_equal(manifest[schema.ETAG], captions[schema.ETAG])
    changed = pc.fill_null(differs, False)
    is_ok = pc.equal(captions[schema.STATUS], schema.STATUS_OK)
    well_formed = pc.if_else(
        is_ok,
        pc.and_(pc.is_valid(captions[schema.CAPTION]), pc.is_null(captions[schema.ERROR_CODE])),
        pc.and_(
            pc.is_null(captions[schema.CAPTION]),
            pc.is_in(captions[schema.ERROR_CODE], value_set=_CODES),
        ),
    )
    for image_id in captions.filter(pc.invert(well_formed))[schema.IMAGE_ID].to_pylist():
        check.problems.append(f"{name}: {image_id!r} is neither captioned nor failed with a code")
    check.num_pending = pc.sum(changed).as_py() or 0
    answered = captions.filter(pc.invert(changed))
    check.num_ok = pc.sum(pc.equal(answered[schema.STATUS], schema.STATUS_OK)).as_py() or 0
    codes = answered.filter(pc.equal(answered[schema.STATUS], schema.STATUS_FAILED))
    check.failed.update(codes[schema.ERROR_CODE].to_pylist())


def _count_awaiting(check: _PartCheck, store: Store, number: int) -> None:
    """Count images that await the second model of a cascade as pending."""
    num_awaiting = read_captions_footer(store, number).num_awaiting
    check.num_pending += num_awaiting
    check.num_ok -= num_awaiting


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
