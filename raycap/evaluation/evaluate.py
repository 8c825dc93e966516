"""`raycap evaluate` from end to end: match, count, score, resample, write."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from raycap.config import BootstrapConfig, EvaluateConfig
from raycap.datasets.references import References, read_references
from raycap.datasets.splits import known_split
from raycap.evaluation.captions import Captions, open_captions
from raycap.evaluation.findings import SystemFound, describe_lengths, describe_systems
from raycap.evaluation.intervals import resample
from raycap.evaluation.matching import MissingPolicy, load_references, match_system, settle
from raycap.evaluation.passes import Matched, PassesFound, Plan, plan_passes, run_passes
from raycap.evaluation.record import EVALUATION, Evaluation, write_evaluation
from raycap.evaluation.scorefile import score_files, score_key
from raycap.records import now, versions
from raycap.scratch import scratch_database
from raycap.status import OnProgress
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 1_000_000_000


def evaluate(  # noqa: PLR0913  the public call: all but two by keyword
    captions: Sequence[str | Path],
    references: str | Path,
    *,
    output: str | Path | None = None,
    missing: MissingPolicy = MissingPolicy.ERROR,
    splits: Sequence[str] = (),
    config: EvaluateConfig | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> Evaluation:
    """Score one or more systems' captions against what people wrote.

    Args:
        captions: what `raycap caption` wrote, or files of captions; `name=address` gives a name.
        references: a caption dataset, or anything that `raycap prepare` reads.
        output: a folder or `s3://bucket/prefix` for `evaluation.json` and the images' scores; an
            evaluation that is there is replaced. None: nothing is written.
        missing: what to do about images without a caption.
        splits: only these splits of the references; empty: all.
        config: all settings; defaults where it is None.
        on_progress: called as images are scored.
        debug: show Ray's and the workers' own output.

    Raises:
        ConfigError: a setting or an address is wrong, or what a setting asks for is not installed.
        DatasetError: captions or references are not what they should be, or images lack captions.
        ModelError: the CLIP cannot be found or run.
        StorageError: a store refuses.
    """
    config = config or EvaluateConfig()
    started = time.monotonic()
    systems = open_captions(captions, config.storage)
    written = read_references(references, config.storage, splits=splits)
    plan = plan_passes(config, written, len(systems))
    store = None if output is None else open_store(str(output), config.storage)
    with scratch_database(_MEMORY_BYTES) as database:
        matched = _match(
            database, systems, written, splits, missing, on_progress or (lambda _: None)
        )
        if store is not None:
            store.delete(EVALUATION)  # without it, what stands there is no evaluation
        with score_files(store, len(systems)) as files:
            found = run_passes(matched, plan, config, files, debug=debug)
    evaluation = _conclude(matched, plan, found, config.bootstrap, is_written=store is not None)
    evaluation = replace(evaluation, wall_s=round(time.monotonic() - started, 2))
    if store is not None:
        write_evaluation(store, evaluation)
    return evaluation


def _match(
    database: duckdb.DuckDBPyConnection,
    systems: Sequence[Captions],
    written: References,
    splits: Sequence[str],
    missing: MissingPolicy,
    on_progress: OnProgress,
) -> Matched:
    """Read everything into the scratch database, join it, and settle what is scored."""
    num_rows = load_references(database, written.tables)
    if written.dropped:
        logger.warning("references_dropped %s", dict(written.dropped))
    matches = [
        match_system(database, number, system, written.source)
        for number, system in enumerate(systems)
    ]
    names = [system.name for system in systems]
    return Matched(
        database=database,
        systems=systems,
        matches=matches,
        references=written,
        splits=sorted({known_split(name) for name in splits}),
        missing=missing,
        num_rows=num_rows,
        num_scored=settle(database, dict(zip(names, matches, strict=True)), missing),
        on_progress=on_progress,
    )


def _conclude(
    matched: Matched, plan: Plan, found: PassesFound, config: BootstrapConfig, *, is_written: bool
) -> Evaluation:
    """Compute the corpus's scores of each system, their intervals and comparisons."""
    names = [system.name for system in matched.systems]
    resampled = resample(names, found.sums, found.reference_sums, config)
    systems = [
        SystemFound(
            captions=captions,
            match=matched.matches[number],
            sums=found.sums[number],
            diversity=found.diversity[number],
            mean_logprob=found.mean_logprobs[number],
            skipped=found.skipped[number],
            scores=score_key(number) if is_written else "",
        )
        for number, captions in enumerate(matched.systems)
    ]
    lengths = found.reference_lengths
    return Evaluation(
        references=matched.references.source,
        splits=list(matched.splits),
        references_dropped=dict(matched.references.dropped),
        num_images=matched.num_scored,
        num_references=lengths.total(),
        reference_lengths=describe_lengths(lengths),
        tokenizer=plan.tokenizer,
        missing_policy=str(matched.missing),
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        seed=config.seed,
        systems=describe_systems(systems, resampled, lengths, tells_copies=found.tells_copies),
        comparisons=resampled.comparisons,
        wall_s=0.0,
        versions=versions(),
        created_at=now(),
    )
