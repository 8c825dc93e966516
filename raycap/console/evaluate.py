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
    from raycap.results.evaluation import Comparison, Evaluation, System
    from raycap.results.shown.evaluation import Figures


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


def print_evaluation(found: "Evaluation") -> None:
    """Print the systems side by side, their differences, and notes."""
    from raycap.results.shown.evaluation import evaluation_rows

    console = Console()
    for table in _score_tables(found.systems, console.width):
        console.print(table)
        console.print()
    shown = [item for item in found.comparisons if item.metric in _SHOWN_COMPARISONS]
    if shown:
        console.print(_comparison_table(shown))
        console.print()
    print_rows(evaluation_rows(found))


def _score_tables(systems: "Sequence[System]", width: int) -> list[Table]:
    """Build tables of as many systems as fit side by side; shorten intervals if needed."""
    from raycap.results.shown.evaluation import system_figures

    figures = system_figures(systems, is_short=False)
    if len(_grouped(systems, figures, width)) > 1:
        figures = system_figures(systems, is_short=True)
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


def _grouped(systems: "Sequence[System]", figures: "Figures", width: int) -> list[list[int]]:
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


def _width(figures: "Figures", system: int) -> int:
    return max(len(cells[system]) for _, cells in figures)


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
