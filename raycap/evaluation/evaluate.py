"""`raycap evaluate`: match, count, score, resample and write."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from raycap.config import BootstrapConfig, EditsMode, EvaluateConfig, MissingPolicy, choose, renamed
from raycap.config.loading import override
from raycap.datasets.references import References, read_references
from raycap.datasets.splits import known_split
from raycap.evaluation.captions import Captions, check_files, open_captions
from raycap.evaluation.matching import Match, load_references, match_system, settle
from raycap.evaluation.passes import (
    Matched,
    PassesFound,
    ScoringPlan,
    plan_passes,
    run_passes,
    score_files,
    score_key,
)
from raycap.evaluation.registry import SCORE_NAMES
from raycap.evaluation.sums import Interval, Resampled, SystemSums, resample
from raycap.metrics.diversity import DiversityCounts
from raycap.metrics.lengths import Histogram, mean_length, median_length, wasserstein
from raycap.progress import OnProgress
from raycap.results.evaluation import (
    EVALUATION,
    Diversity,
    Evaluation,
    LengthGap,
    Lengths,
    Metric,
    System,
    write_evaluation,
)
from raycap.runs.records import now, versions
from raycap.scratch import scratch_database
from raycap.storage.stores import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFound:
    """All results of one system."""

    captions: Captions
    match: Match
    sums: SystemSums
    diversity: DiversityCounts
    mean_logprob: float | None
    skipped: dict[str, str]
    """Scores without a value, and why."""
    scores: str
    """Key of its per-image scores; "" if none were written."""

    def lengths(self) -> Counter[int]:
        """Count its captions by their length."""
        return Counter(self.sums.lengths[self.sums.has_caption].tolist())


def describe_systems(
    found: Sequence[SystemFound],
    resampled: Resampled,
    references: Histogram,
    *,
    counts_copies: bool,
) -> list[System]:
    """Return what `evaluation.json` contains for each system.

    Args:
        found: the systems.
        resampled: their intervals.
        references: lengths of the references.
        counts_copies: whether copies of training captions were counted.
    """
    parts = zip(found, resampled.metrics, resampled.length_gaps, strict=True)
    return [
        _system(system, intervals, gap, references, counts_copies=counts_copies)
        for system, intervals, gap in parts
    ]


def describe_lengths(histogram: Histogram) -> Lengths:
    """Describe captions by their length in tokens."""
    return Lengths(
        mean=mean_length(histogram),
        median=median_length(histogram),
        histogram=dict(sorted(histogram.items())),
    )


def _system(
    found: SystemFound,
    intervals: dict[str, Interval],
    gap: Interval | None,
    references: Histogram,
    *,
    counts_copies: bool,
) -> System:
    lengths = found.lengths()
    captions, match = found.captions, found.match
    return System(
        name=captions.name,
        source=captions.source,
        format=str(captions.format),
        scores=found.scores,
        model=captions.model,
        edits=captions.edits,
        matched_by=match.matched_by,
        num_images=len(found.sums.has_caption),
        num_missing=match.num_missing,
        missing=match.missing,
        num_extra=match.num_extra,
        extra=match.extra,
        num_failed=match.num_failed,
        failed=match.failed,
        mean_logprob=found.mean_logprob,
        metrics=_metrics(found, intervals),
        lengths=describe_lengths(lengths),
        length_gap=LengthGap(
            difference=mean_length(lengths) - mean_length(references),
            low=None if gap is None else gap[0],
            high=None if gap is None else gap[1],
            wasserstein=wasserstein(lengths, references),
        ),
        diversity=_diversity(found.diversity, counts_copies=counts_copies),
    )


def _diversity(counts: DiversityCounts, *, counts_copies: bool) -> Diversity:
    return Diversity(
        distinct_1=counts.distinct_1,
        distinct_2=counts.distinct_2,
        repetition=counts.repetition,
        vocabulary_size=counts.vocabulary_size,
        num_different_captions=counts.num_different_captions,
        copied_from_training=counts.copied if counts_copies else None,
    )


def _metrics(found: SystemFound, intervals: dict[str, Interval]) -> list[Metric]:
    values = found.sums.corpus()
    metrics = []
    for name in SCORE_NAMES:
        low, high = intervals.get(name, (None, None))
        value = values.get(name)
        reason = found.skipped.get(name, "no image has a score") if value is None else None
        metrics.append(Metric(name=name, value=value, low=low, high=high, skipped=reason))
    return metrics


logger = logging.getLogger(__name__)

_MEMORY_BYTES = 1_000_000_000


@renamed(splits="split")
def evaluate(  # noqa: PLR0913  the public call: all but two by keyword
    captions: str | Path | Sequence[str | Path],
    references: str | Path,
    *,
    output: str | Path | None = None,
    missing: MissingPolicy | str = MissingPolicy.ERROR,
    split: str | Sequence[str] | None = None,
    edits: EditsMode | str | None = None,
    config: EvaluateConfig | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> Evaluation:
    """Score the captions of one or more systems against references.

    Args:
        captions: outputs of `raycap caption` or files of captions, or one of them;
            `name=address` gives a name.
        references: a caption dataset, or anything that `raycap prepare` reads.
        output: a folder or `s3://bucket/prefix` for `evaluation.json` and the scores of images; an
            existing evaluation is overwritten. None: nothing is written.
        missing: treatment of images without a caption.
        split: only this split of the references, or these; None: all.
        edits: shorthand for the setting `edits`.
        config: all settings; None: the defaults.
        on_progress: called as images are scored.
        debug: show the output of Ray and of the workers.

    Raises:
        ConfigError: a setting or an address is wrong, or a setting needs an extra that is missing.
        DatasetError: captions or references are invalid, or images have no caption.
        ModelError: the CLIP cannot be found or run.
        StorageError: a store refuses.
    """
    config = override(config or EvaluateConfig(), {"edits": edits})
    policy = choose(MissingPolicy, missing, "missing")
    started = time.monotonic()
    named = [captions] if isinstance(captions, str | Path) else captions
    systems = open_captions(named, config.storage, config.edits)
    check_files(systems, config.storage)
    splits = [split] if isinstance(split, str) else list(split or ())
    written = read_references(references, config.storage, splits=splits)
    plan = plan_passes(config, written, len(systems))
    store = None if output is None else open_store(str(output), config.storage)
    with scratch_database(_MEMORY_BYTES) as database:
        matched = _match(
            database, systems, written, splits, policy, on_progress or (lambda _: None)
        )
        if store is not None:
            store.delete(EVALUATION)  # without it, the files there are not an evaluation
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
    """Load everything into the scratch database, join it, and decide what is scored."""
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


_UNSPLIT_SHARE = 0.05
"""Share of captions that the tokenizer cannot split, above which there is a warning."""


def _warnings(names: Sequence[str], matched: Matched, found: PassesFound) -> list[str]:
    """Return why scores may not mean what they seem to."""
    warnings = []
    num_references = found.reference_lengths.total()
    counts = {"references": (found.num_unsplit_references, num_references)}
    for name, num_unsplit in zip(names, found.num_unsplit, strict=True):
        counts[name] = (num_unsplit, matched.num_scored)
    unsplit = [
        f"{num_unsplit:,} of {num_captions:,} {what}"
        for what, (num_unsplit, num_captions) in counts.items()
        if num_unsplit > _UNSPLIT_SHARE * num_captions
    ]
    if unsplit:
        warnings.append(
            f"{', '.join(unsplit)}: written without spaces between words (Chinese, Japanese, "
            "Thai, ...), which the tokenizer cannot split: a phrase counts as one token in "
            "lengths, BLEU, ROUGE-L, CIDEr-D and diversity; separate the words by spaces first"
        )
    for name, codes in zip(names, found.clip_unscored, strict=True):
        if codes:
            counts_by_code = ", ".join(f"{count:,} {code}" for code, count in sorted(codes.items()))
            warnings.append(
                f"CLIPScore leaves out {codes.total():,} images of {name}: {counts_by_code}"
            )
    if matched.num_scored == 1:
        warnings.append("one image: it has no intervals and no paired tests")
    return warnings


def _conclude(
    matched: Matched,
    plan: ScoringPlan,
    found: PassesFound,
    config: BootstrapConfig,
    *,
    is_written: bool,
) -> Evaluation:
    """Compute the scores of each system, their intervals and comparisons."""
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
        num_resamples=config.num_resamples if matched.num_scored > 1 else 0,
        seed=config.seed,
        systems=describe_systems(systems, resampled, lengths, counts_copies=found.counts_copies),
        comparisons=resampled.comparisons,
        wall_s=0.0,
        warnings=_warnings(names, matched, found),
        versions=versions(),
        created_at=now(),
    )
