"""Other rules for the text, applied to a finished output: `raycap caption --again text`.

This needs neither the model nor an image, as the parts keep the answers. `run.json` keeps the
fingerprint that the run began with, which its parts may name, and also says which rules its
captions follow now. Each captions part records its own rules. So it is known which parts are still
to be rewritten, however often that was interrupted, and whichever command goes on with it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.answers.wording import Wording, check_rules
from raycap.captioning.answering import worded_columns
from raycap.captioning.claim import CaptionClaim
from raycap.captioning.columns import failure, with_status
from raycap.captioning.ledger import Ledger, read_ledger
from raycap.captioning.moving import is_address_of
from raycap.captioning.output import check_finished
from raycap.captioning.parts import (
    CAPTIONS,
    encode_again,
    read_captions_footer,
    read_stored_part,
)
from raycap.captioning.plan import read_plan
from raycap.captioning.status import Heartbeat
from raycap.config import CaptionConfig, TextConfig
from raycap.errors import ConfigError, DatasetError, ErrorCode, ImageError, ObjectNotFound
from raycap.models.base import Caption
from raycap.progress import OnProgress, Progress
from raycap.results.captioning import (
    MOVED_TO,
    TEXT,
    Summary,
    is_complete,
    present_text,
    read_caption_run,
    read_summary,
    run_setting,
    text_digest,
    write_summary,
)
from raycap.runs.opening import open_run
from raycap.runs.records import RUN, encode_json, fingerprint_digest, now, read_json, versions
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.storage.parts import list_parts, part_key
from raycap.storage.stores import open_store

_ROWS_AHEAD = 32_768
_FREE = frozenset({TEXT, "prompts", "engine", "storage", "preflight"})
"""Sections that need not be those of the run: the rules, and what does not decide captions."""
_NOTHING_YET = Progress(num_done=0, num_total=0, num_failed=0, images_per_s=0.0)


def apply_text(
    source: str | Path,
    output: str | Path,
    config: CaptionConfig,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Apply the rules in `config.text` to the answers that a finished output keeps.

    Args:
        source: the source of the run; nothing is read from it.
        output: the output of the run.
        config: all settings; those that were set must be the run's, except `text`.
        on_progress: called as parts are rewritten.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        ConfigError: the run keeps no answers, or has another source or other settings.
        DatasetError: the output is unfinished or damaged.
        RunConflict: another writer holds it.
        RunStopped: interrupted; the same call continues.
        StorageError: a store refuses.
    """
    started = time.monotonic()
    store = open_store(str(output), config.storage)
    record = read_caption_run(store)
    _check_asked(store, record, str(source), config)
    check_rules(config.text)
    rules = config.text.rules()
    claim = CaptionClaim(run_setting(record, "fingerprint") or {}, config)
    with open_run(store, claim) as run, Heartbeat(run.store, _NOTHING_YET) as heartbeat:
        run.store.remove_leftovers(CAPTIONS)
        _finished_ledger(run.store, config)
        if present_text(read_json(run.store, RUN)) == rules and is_complete(run.store):
            return read_summary(run.store)
        _record_rules(run.store, config)

        def note(progress: Progress) -> None:
            heartbeat.note(progress)
            (on_progress or (lambda _: None))(progress)

        reword(run.store, config, note)
        summary = _summary(run.store, config, started)
        run.finish(write_summary, summary)
    return summary


def reword(
    store: Store, config: CaptionConfig, note: Callable[[Progress], None] | None = None
) -> None:
    """Rewrite the parts whose captions follow other rules than `config.text`, if there are any.

    Args:
        store: the locked output.
        config: the settings.
        note: called with the progress after each part.

    Raises:
        DatasetError: such a part keeps no answers, or is damaged.
    """
    if TEXT not in read_json(store, RUN):
        return  # no rules were applied again: all parts follow those of the run
    rewriting = _Rewriting(store, config.text)
    stale = dict(_stale(store, rewriting.digest, config.storage.list_threads))
    num_threads = max(
        1, min(config.storage.list_threads, _ROWS_AHEAD // max(stale.values(), default=1))
    )
    started, num_done, num_failed = time.monotonic(), 0, 0
    for num_rows, failed in ordered_map(rewriting.part, sorted(stale), num_threads):
        num_done, num_failed = num_done + num_rows, num_failed + failed
        if note is not None:
            elapsed_s = time.monotonic() - started
            note(
                Progress(
                    num_done=num_done,
                    num_total=sum(stale.values()),
                    num_failed=num_failed,
                    images_per_s=num_done / elapsed_s if elapsed_s else 0.0,
                )
            )


def _stale(store: Store, digest: str, num_threads: int) -> Iterator[tuple[int, int]]:
    """Yield the parts that follow other rules, with their numbers of rows."""
    numbers = sorted(list_parts(store, CAPTIONS))
    footers = ordered_map(lambda number: read_captions_footer(store, number), numbers, num_threads)
    for number, footer in zip(numbers, footers, strict=True):
        if footer.text != digest:
            yield number, footer.num_rows


class _Rewriting:
    """Rewrites parts by some rules."""

    def __init__(self, store: Store, text: TextConfig) -> None:
        self._store = store
        self._wording = Wording(text)
        self.digest = text_digest(text.rules())

    def part(self, number: int) -> tuple[int, int]:
        """Rewrite a part; return the numbers of its rows and of its failed ones."""
        table, footer = read_stored_part(self._store, number)
        reworded = self._reworded(table, list(footer.prompts), number)
        data, footer = encode_again(reworded, footer, committed_at=now(), text=self.digest)
        self._store.write(part_key(CAPTIONS, number), data)
        return footer.num_rows, sum(footer.failed.values())

    def _reworded(self, table: pa.Table, prompts: list[str], number: int) -> pa.Table:
        for name in prompts:
            kind = table.schema.field(name).type
            names = {field.name for field in kind}
            if schema.VALUE in names:
                continue  # a typed answer is no text
            self._check_kept(names, number)
            rows = [row and self._row(row) for row in table[name].to_pylist()]
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pa.array(rows, kind))
        if prompts:
            return with_status(table, prompts)
        self._check_kept(set(table.column_names), number)
        rows = [self._row(row) for row in table.select(_READ).to_pylist()]
        for name in _WRITTEN:
            field = table.schema.field(name)
            column = pa.array([row[name] for row in rows], field.type)
            table = table.set_column(table.schema.get_field_index(name), field, column)
        return table

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return an answer by the rules; one that failed for another reason stays as it is."""
        if row[schema.ANSWER] is None or row[schema.ERROR_CODE] not in _TEXT_CODES:
            return row
        caption = _answered(row[schema.ANSWER], row)
        others = tuple(_answered(one[schema.ANSWER], one) for one in row[schema.OTHER_ANSWERS])
        bare = {**row, **dict.fromkeys(_WRITTEN), schema.ALTERNATIVES: []}
        try:
            found = worded_columns(replace(caption, alternatives=others), self._wording)
        except ImageError as error:
            return {**bare, **failure(error)}
        texts = {
            name: found[name] for name in (schema.CAPTION, schema.NUM_WORDS, schema.ALTERNATIVES)
        }
        kept = {schema.LOGPROB: row[schema.LOGPROB], schema.STATUS: schema.STATUS_OK}
        return {**bare, **texts, **kept}

    def _check_kept(self, names: set[str], number: int) -> None:
        if not names >= set(schema.KEPT.names):
            address = self._store.address(part_key(CAPTIONS, number))
            raise DatasetError(
                f"{address}: keeps no answers, so that no other rules can be applied; caption into "
                "a new output",
                uri=address,
            )


_TEXT_CODES = (None, ErrorCode.TEXT_FAILED)
_WRITTEN = [
    schema.STATUS,
    schema.ERROR_CODE,
    schema.ERROR_MESSAGE,
    schema.CAPTION,
    schema.NUM_WORDS,
    schema.LOGPROB,
    schema.ALTERNATIVES,
]
_READ = [*_WRITTEN, *schema.KEPT.names]


def _answered(answer: str, row: dict[str, Any]) -> Caption:
    logprob = row[schema.LOGPROB]
    return Caption(text=answer, logprob=math.nan if logprob is None else logprob)


def _check_asked(store: Store, record: dict[str, Any], source: str, config: CaptionConfig) -> None:
    """Raise ConfigError unless only the rules for the text differ from those of the run."""
    first = run_setting(record, "fingerprint", "source")
    if not is_address_of(source, record.get(MOVED_TO, first)):
        raise ConfigError(
            f"{source}: is not the source of {store.uri}, which is {record.get(MOVED_TO, first)}",
            uri=source,
        )
    if not present_text(record).get("keep_answer"):
        raise ConfigError(
            f"{store.uri}: keeps no answers, so that no other rules can be applied; caption into a "
            "new output, with text.keep_answer=true",
            setting="text.keep_answer",
        )
    if not config.text.keep_answer:
        raise ConfigError(
            "text.keep_answer: the output keeps answers, and --again text does not change that: "
            "set it to true",
            setting="text.keep_answer",
        )
    given = config.model_dump(mode="json", exclude_unset=True)
    theirs = run_setting(record, "config") or {}
    for name in given.keys() - _FREE:
        for setting, value, other in _differences(given[name], theirs.get(name), name):
            raise ConfigError(
                f"{setting}={value!r}: --again text changes `text` only, but the run has "
                f"{other!r}: leave it out",
                setting=setting,
            )


def _differences(given: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(given, dict) and isinstance(theirs, dict):
        for name, value in given.items():
            yield from _differences(value, theirs.get(name), f"{path}.{name}")
    elif given != theirs:
        yield path, given, theirs


def _finished_ledger(store: Store, config: CaptionConfig) -> Ledger:
    """Return the ledger of a finished output. Raises DatasetError if it is unfinished."""
    record = read_json(store, RUN)
    plan = read_plan(store, config.storage.list_threads)
    ledger = read_ledger(
        store,
        plan,
        retry_failed=False,
        num_threads=config.storage.list_threads,
        run=fingerprint_digest(run_setting(record, "fingerprint") or {}),
    )
    check_finished(store, plan, ledger)
    return ledger


def _record_rules(store: Store, config: CaptionConfig) -> None:
    """Write the present rules into `run.json`. From then on, the former summary does not hold."""
    record = read_json(store, RUN)
    settings = {**record["config"], TEXT: config.text.model_dump(mode="json")}
    rules = config.text.rules()
    store.write(RUN, encode_json({**record, "config": settings, TEXT: rules}))


def _summary(store: Store, config: CaptionConfig, started: float) -> Summary:
    """Return the summary of an output whose parts all follow the rules."""
    totals = _finished_ledger(store, config).totals
    num_failed = totals.failed.total()
    num_ok = totals.num_images - num_failed
    counts: dict[str, Any] = {
        "num_images": totals.num_images,
        "num_ok": num_ok,
        "num_failed": num_failed,
        "failed": dict(totals.failed),
        "mean_words": round(totals.num_words / num_ok, 2) if num_ok else 0.0,
        "num_bytes": totals.num_bytes,
        "num_captioned": 0,
        "wall_s": round(time.monotonic() - started, 2),
        "images_per_s": 0.0,
        "text": text_digest(config.text.rules()),
        "versions": versions(),
        "finished_at": now(),
    }
    try:
        return replace(read_summary(store), **counts)
    except (ObjectNotFound, DatasetError):  # lost or damaged: only what the parts say is known
        record = read_json(store, RUN)
        source = record.get(MOVED_TO, run_setting(record, "fingerprint", "source"))
        model = run_setting(record, "fingerprint", "model") or {}
        return Summary(output=store.uri, source=str(source), model=model, **counts)
