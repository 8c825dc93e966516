"""Evaluations as figures per system, and as names and values."""

from collections.abc import Sequence

from raycap.results.display import Rows, Shown, Table
from raycap.results.evaluation import Evaluation, LengthGap, Metric, System
from raycap.results.labels import metric_label

Figures = list[tuple[str, list[str]]]
"""Row labels, each with one cell per system."""


def system_figures(systems: Sequence[System], *, is_short: bool) -> Figures:
    """Return each figure with its value for every system."""
    rows: Figures = [("images", [f"{system.num_images:,}" for system in systems])]
    for metrics in zip(*(system.metrics for system in systems), strict=True):
        if any(metric.value is not None for metric in metrics):
            cells = [_metric(metric, is_short=is_short) for metric in metrics]
            rows.append((metric_label(metrics[0].name), cells))
    for label, cell in (
        ("mean tokens", lambda system: f"{system.lengths.mean:.2f}"),
        ("length gap", lambda system: _gap(system.length_gap, is_short=is_short)),
        ("length distance", lambda system: f"{system.length_gap.wasserstein:.2f}"),
        ("distinct-1, -2", _distinct),
        ("repetition", lambda system: f"{system.diversity.repetition:.1%}"),
        ("vocabulary", lambda system: f"{system.diversity.vocabulary_size:,}"),
        ("training copies", lambda system: _share(system.diversity.copied_from_training)),
        ("mean logprob", _logprob),
        ("failed, missing", lambda system: f"{system.num_failed:,}, {system.num_missing:,}"),
    ):
        cells = [cell(system) for system in systems]
        if any(cells):
            rows.append((label, cells))
    return rows


def _metric(metric: Metric, *, is_short: bool) -> str:
    if metric.value is None:
        return "skipped"
    bounds = _bounds(metric.low, metric.high, "{:.4f}", is_short=is_short)
    return f"{metric.value:.4f}{bounds}"


def _gap(gap: LengthGap, *, is_short: bool) -> str:
    sign = "" if is_short else "+"
    bounds = _bounds(gap.low, gap.high, f"{{:{sign}z.2f}}", is_short=is_short)
    return f"{gap.difference:+z.2f}{bounds}"


def _bounds(low: float | None, high: float | None, form: str, *, is_short: bool) -> str:
    """Format an interval; the short form is half its width."""
    if low is None or high is None:
        return ""
    if is_short:
        return f" \u00b1{form.format((high - low) / 2)}"
    return f" [{form.format(low)}, {form.format(high)}]"


def _distinct(system: System) -> str:
    return f"{system.diversity.distinct_1:.3f}, {system.diversity.distinct_2:.3f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _logprob(system: System) -> str:
    return "" if system.mean_logprob is None else f"{system.mean_logprob:.3f}"


def skipped_rows(systems: Sequence[System]) -> Rows:
    """Return why metrics have no value, merged over metrics and systems."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for metrics in zip(*(system.metrics for system in systems), strict=True):
        for reason in dict.fromkeys(metric.skipped for metric in metrics if metric.skipped):
            of = [s.name for s, m in zip(systems, metrics, strict=True) if m.skipped == reason]
            whose = "" if len(of) == len(systems) else f" ({', '.join(of)})"
            reasons.setdefault((reason, whose), []).append(metric_label(metrics[0].name))
    return [
        ("skipped", _reason(labels, reason) + whose) for (reason, whose), labels in reasons.items()
    ]


def _reason(labels: Sequence[str], reason: str) -> str:
    return reason if reason.startswith(labels[0]) else f"{', '.join(labels)}: {reason}"


def left_over_rows(found: Evaluation) -> Rows:
    """Return what had no counterpart: images, captions and references."""
    rows = []
    for system in found.systems:
        for what, count, named in (
            ("without a row", system.num_missing, system.missing),
            ("without references", system.num_extra, system.extra),
        ):
            if count:
                more = ", ..." if count > len(named) else ""
                rows.append((what, f"{system.name}: {count:,} ({', '.join(named)}{more})"))
        if system.failed:
            codes = ", ".join(f"{count:,} {code}" for code, count in system.failed.items())
            rows.append(("failed", f"{system.name}: {codes}"))
    if found.references_dropped:
        told = ", ".join(f"{n:,} {reason}" for reason, n in found.references_dropped.items())
        rows.append(("references dropped", told))
    return rows


def evaluation_rows(found: Evaluation) -> Rows:
    """Return what the scores depend on, and what they leave out."""
    references = f"{found.num_references:,} for {found.num_images:,} images"
    mean = f"mean {found.reference_lengths.mean:.2f} tokens"
    rows = [("references", f"{references}, {mean}")]
    if found.num_resamples:
        share = f"{100 * found.confidence:g} %"
        rows.append(("intervals", f"{share}, from {found.num_resamples:,} resamples of the images"))
    rows.append(("tokenizer", found.tokenizer))
    rows += [
        ("corrections", f"{system.name}: {system.edits}")
        for system in found.systems
        if system.edits
    ]
    warnings = [("warning", warning) for warning in found.warnings]
    return [*rows, *skipped_rows(found.systems), *left_over_rows(found), *warnings]


def show_evaluation(found: Evaluation) -> Shown:
    """Show the metrics of the systems side by side, with their intervals."""
    headings = ["", *(system.name for system in found.systems)]
    figures = system_figures(found.systems, is_short=False)
    table = Table(headings=headings, rows=[[label, *cells] for label, cells in figures])
    return Shown(title="Evaluation", rows=evaluation_rows(found), tables=[table])
