"""`raycap evaluate`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.config import EvaluateConfig, MissingPolicy
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DebugOption,
    EditsOption,
    argument,
    set_option,
)
from raycap.console.terminal import print_rows, stderr, told_errors

if TYPE_CHECKING:
    from raycap.results.evaluation import Comparison, Evaluation, LengthGap, Metric, System


def evaluate(
    captions: Annotated[
        list[str],
        argument(
            "CAPTIONS",
            "Captions to score: outputs of `raycap caption`, COCO results JSON, JSONL, CSV "
            "or Parquet files. `NAME=PATH` names a system, `PATH#PROMPT` "
            "chooses a named prompt.",
        ),
    ],
    references: Annotated[
        str,
        argument(
            "REFERENCES",
            "Captions written by people: a dataset of `raycap prepare`, or any source that it "
            "reads.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder or `s3://` prefix for `evaluation.json` and the per-image scores.",
        ),
    ] = None,
    missing: Annotated[
        MissingPolicy,
        typer.Option(
            "--missing",
            help="If images have no caption: stop (error), score them 0 (worst), or exclude them "
            "for all systems (drop).",
        ),
    ] = MissingPolicy.ERROR,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Use only this split of the references; can be repeated."),
    ] = None,
    edits: EditsOption = None,
    config: ConfigOption = None,
    settings: Annotated[list[str] | None, set_option("bootstrap.num_resamples=200")] = None,
    debug: DebugOption = False,
) -> None:
    """Score captions against references: BLEU, ROUGE-L, CIDEr-D and others, and the length gap.

    Compares several systems side by side, with confidence intervals and paired tests.

    Example: `raycap evaluate captions/ dataset/ --split test --output evaluation/`

    Exit codes: 0 done; 1 stopped (for example, images without a caption and `--missing error`);
    2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(EvaluateConfig, config, settings, {"edits": edits})
        from raycap.console.progress import show_progress
        from raycap.evaluation.evaluate import evaluate as evaluate_captions

        with show_progress(stderr()) as on_progress:
            found = evaluate_captions(
                captions,
                references,
                output=output,
                missing=missing,
                split=split,
                config=resolved,
                on_progress=on_progress,
                debug=debug,
            )
        print_evaluation(found)


_SHOWN_COMPARISONS = ("cider_d", "bleu_4", "length")


_NAME_WIDTH = 20
"""Longer system names are wrapped."""


_PAIR_NAME_WIDTH = 16


_Figures = list[tuple[str, list[str]]]
"""Row labels, each with one cell per system."""


def print_evaluation(found: "Evaluation") -> None:
    """Print the systems side by side, their differences, and notes."""
    console = Console()
    for table in _score_tables(found.systems, console.width):
        console.print(table)
        console.print()
    shown = [item for item in found.comparisons if item.metric in _SHOWN_COMPARISONS]
    if shown:
        console.print(_comparison_table(shown))
        console.print()
    references = f"{found.num_references:,} for {found.num_images:,} images"
    mean = f"mean {found.reference_lengths.mean:.2f} tokens"
    rows = [("references", f"{references}, {mean}")]
    if found.num_resamples:
        share = f"{100 * found.confidence:g} %"
        rows.append(("intervals", f"{share}, from {found.num_resamples:,} resamples of the images"))
    rows.append(("tokenizer", found.tokenizer))
    warnings = [("warning", warning) for warning in found.warnings]
    print_rows([*rows, *_skipped_rows(found.systems), *_left_over_rows(found), *warnings])


def _score_tables(systems: "Sequence[System]", width: int) -> list[Table]:
    """Build tables of as many systems as fit side by side; shorten intervals if needed."""
    figures = _figures(systems, is_short=False)
    if len(_grouped(systems, figures, width)) > 1:
        figures = _figures(systems, is_short=True)
    tables = []
    for group in _grouped(systems, figures, width):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(no_wrap=True)
        for number in group:
            size = _width(figures, number)
            name = escape(systems[number].name)
            table.add_column(name, overflow="fold", max_width=max(size, _NAME_WIDTH))
        for label, cells in figures:
            table.add_row(label, *(escape(cells[number]) for number in group))
        tables.append(table)
    return tables


def _grouped(systems: "Sequence[System]", figures: _Figures, width: int) -> list[list[int]]:
    """Split the systems, by index, into groups that fit the width."""
    label_width = max(len(label) for label, _ in figures)
    groups: list[list[int]] = []
    left = 0
    for number, system in enumerate(systems):
        needed = 2 + max(_width(figures, number), min(len(system.name), _NAME_WIDTH))
        if not groups or needed > left:
            groups.append([])
            left = width - label_width
        groups[-1].append(number)
        left -= needed
    return groups


def _width(figures: _Figures, system: int) -> int:
    return max(len(cells[system]) for _, cells in figures)


def _figures(systems: "Sequence[System]", *, is_short: bool) -> _Figures:
    """Return each figure with its value for every system."""
    from raycap.results.labels import metric_label

    rows: _Figures = [("images", [f"{system.num_images:,}" for system in systems])]
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


def _metric(metric: "Metric", *, is_short: bool) -> str:
    if metric.value is None:
        return "skipped"
    bounds = _bounds(metric.low, metric.high, "{:.4f}", is_short=is_short)
    return f"{metric.value:.4f}{bounds}"


def _gap(gap: "LengthGap", *, is_short: bool) -> str:
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


def _distinct(system: "System") -> str:
    return f"{system.diversity.distinct_1:.3f}, {system.diversity.distinct_2:.3f}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _logprob(system: "System") -> str:
    return "" if system.mean_logprob is None else f"{system.mean_logprob:.3f}"


def _abridged(name: str) -> str:
    return name if len(name) <= _PAIR_NAME_WIDTH else f"{name[: _PAIR_NAME_WIDTH - 1]}…"


def _comparison_table(comparisons: "Sequence[Comparison]") -> Table:
    """Build the table of differences, first system minus second."""
    from raycap.results.labels import metric_label

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("difference", overflow="fold")
    for title in ("", "", "interval", "p"):
        table.add_column(title, no_wrap=True)
    before = None
    for item in comparisons:
        pair = (item.first, item.second)
        digits = 2 if item.metric == "length" else 4
        low, high = (f"{bound:+z.{digits}f}" for bound in (item.low, item.high))
        table.add_row(
            "" if pair == before else escape(" - ".join(map(_abridged, pair))),
            metric_label(item.metric),
            f"{item.difference:+z.{digits}f}",
            escape(f"[{low}, {high}]"),
            f"{item.p_value:.3f}",
        )
        before = pair
    return table


def _skipped_rows(systems: "Sequence[System]") -> list[tuple[str, str]]:
    """Return why metrics have no value, merged over metrics and systems."""
    from raycap.results.labels import metric_label

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


def _left_over_rows(found: "Evaluation") -> list[tuple[str, str]]:
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
