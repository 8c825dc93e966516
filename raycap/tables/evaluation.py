"""What preparing a dataset, evaluating captions and writing a report came to."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.datasets.record import DatasetRecord
from raycap.evaluation.record import Comparison, Evaluation, Metric, System
from raycap.report.report import ReportSummary
from raycap.tables.columns import print_rows

_SHOWN_COMPARISONS = ("cider_d", "bleu_4", "length")
_LABELS = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "meteor": "METEOR",
    "spice": "SPICE",
    "clip_score": "CLIPScore",
    "ref_clip_score": "RefCLIPScore",
    "length": "length",
}


def dataset_rows(record: DatasetRecord) -> list[tuple[str, str]]:
    """Say what a caption dataset holds, and what was left out."""
    rows = [("images", f"{record.num_images:,}"), ("captions", f"{record.num_captions:,}")]
    for name, split in record.splits.items():
        told = f"{split.num_images:,} images, {split.num_captions:,} captions"
        rows.append((f"  {name}", f"{told}, {split.mean_tokens:.1f} tokens each"))
    rejected = {
        "images rejected": record.rejected_images,
        "captions rejected": record.rejected_captions,
    }
    for name, reasons in rejected.items():
        if reasons:
            told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
            rows.append((name, told))
    if record.num_images_not_in_subset:
        rows.append(("not in the subset", f"{record.num_images_not_in_subset:,} images"))
    if record.duplicates.num_groups:
        duplicates = record.duplicates
        told = f"{duplicates.num_images:,} images in {duplicates.num_groups:,} groups"
        rows.append(("duplicates", f"{told}, {duplicates.num_moved:,} moved to one split"))
    if record.leakage.num_groups:
        rows.append(
            ("LEAKAGE", f"{record.leakage.num_images:,} images are in several of the given splits")
        )
    return [*rows, ("vocabulary", f"{record.vocabulary_size:,} tokens")]


def print_evaluation(found: Evaluation) -> None:
    """Print systems side by side, then how they differ, then what was skipped."""
    columns = Table("", *(escape(system.name) for system in found.systems), box=None)
    columns.add_row("images", *(f"{system.num_images:,}" for system in found.systems))
    for label, cells in _figures(found.systems):
        columns.add_row(label, *cells)
    Console().print(columns)
    print_rows(
        [
            ("references", f"{found.num_references:,}, {found.reference_lengths.mean:.2f} tokens"),
            ("tokenizer", found.tokenizer),
            *_comparison_rows(found.comparisons),
            *_skipped_rows(found.systems),
            *_left_over_rows(found),
        ]
    )


def report_rows(summary: ReportSummary) -> list[tuple[str, str]]:
    """Say what a report came to."""
    rows = [
        ("sections", f"{summary.num_sections:,}"),
        ("images shown", f"{summary.num_examples:,}"),
        ("size", f"{summary.num_bytes / 1e6:.1f} MB"),
    ]
    if summary.num_unreadable:
        rows.append(("without a picture", f"{summary.num_unreadable:,}"))
    return [*rows, ("report", summary.path)]


def _figures(systems: Sequence[System]) -> list[tuple[str, list[str]]]:
    """Give each figure with its value for every system."""
    rows = []
    for metrics in zip(*(system.metrics for system in systems), strict=True):
        if any(metric.value is not None for metric in metrics):
            rows.append((_LABELS[metrics[0].name], [_value(metric) for metric in metrics]))
    for label, cell in (
        ("mean tokens", lambda system: f"{system.lengths.mean:.2f}"),
        ("length gap", _gap),
        ("  Wasserstein", lambda system: f"{system.length_gap.wasserstein:.2f}"),
        ("distinct-1, -2", _distinct),
        ("repetition", lambda system: f"{system.diversity.repetition:.1%}"),
        ("vocabulary", lambda system: f"{system.diversity.vocabulary_size:,}"),
        ("copied from training", _copied),
        ("mean logprob", _logprob),
        ("failed, missing", lambda system: f"{system.num_failed:,}, {system.num_missing:,}"),
    ):
        cells = [cell(system) for system in systems]
        if any(cells):
            rows.append((label, cells))
    return rows


def _value(metric: Metric) -> str:
    if metric.value is None:
        return "skipped"
    bounds = "" if metric.low is None else f"  [{metric.low:.4f}, {metric.high:.4f}]"
    return escape(f"{metric.value:.4f}{bounds}")


def _gap(system: System) -> str:
    gap = system.length_gap
    bounds = "" if gap.low is None else f"  [{gap.low:+.2f}, {gap.high:+.2f}]"
    return escape(f"{gap.difference:+.2f}{bounds}")


def _distinct(system: System) -> str:
    return f"{system.diversity.distinct_1:.3f}, {system.diversity.distinct_2:.3f}"


def _copied(system: System) -> str:
    share = system.diversity.copied_from_training
    return "" if share is None else f"{share:.1%}"


def _logprob(system: System) -> str:
    return "" if system.mean_logprob is None else f"{system.mean_logprob:.3f}"


def _comparison_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    return [
        (
            f"{item.first} - {item.second}",
            f"{_LABELS[item.metric]} {item.difference:+.4f} [{item.low:+.4f}, {item.high:+.4f}], "
            f"p={item.p_value:.3g}",
        )
        for item in comparisons
        if item.metric in _SHOWN_COMPARISONS
    ]


def _skipped_rows(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Say why metrics have no value; what is so for all systems is said once."""
    reasons = {
        (metric.name, metric.skipped): None
        for system in systems
        for metric in system.metrics
        if metric.skipped
    }
    return [(f"{_LABELS[name]} skipped", str(reason)) for name, reason in reasons]


def _left_over_rows(found: Evaluation) -> list[tuple[str, str]]:
    rows = []
    for system in found.systems:
        for what, count, named in (
            ("without a caption", system.num_missing, system.missing),
            ("without references", system.num_extra, system.extra),
        ):
            if count:
                more = ", ..." if count > len(named) else ""
                rows.append((f"{system.name}: {what}", f"{count:,} ({', '.join(named)}{more})"))
    if found.references_dropped:
        told = ", ".join(f"{n:,} {reason}" for reason, n in found.references_dropped.items())
        rows.append(("references dropped", told))
    return rows
