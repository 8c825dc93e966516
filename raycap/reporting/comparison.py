"""The section that puts several training runs of a page side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from raycap.reporting.curves import Chart, Curve, epoch_chart
from raycap.reporting.svg import NUM_LINE_INKS
from raycap.reporting.training_run import TrainingRun
from raycap.reporting.training_table import Table, compared
from raycap.schema import CIDER_D


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSection:
    """What the page shows of several training runs together."""

    template: ClassVar[str] = "comparison.html.jinja"
    kind: ClassVar[str] = "Comparison"
    gallery: ClassVar[None] = None

    anchor: str
    title: str
    summary: tuple[str, ...]
    charts: tuple[Chart, ...]
    runs: Table


def comparison_section(runs: Sequence[TrainingRun], anchor: str) -> ComparisonSection:
    """Put the validation curves of training runs into one plot, and their best epochs together."""
    names = _names(runs)
    losses, scores = list[Curve](), list[Curve]()
    for number, (run, name) in enumerate(zip(runs, names, strict=True)):
        losses.append(_curve(number, name, run, [record.validation_loss for record in run.history]))
        scores.append(_curve(number, name, run, [record.scores[CIDER_D] for record in run.history]))
    told = ", ".join(f"{run.kind}: {run.end}" for run in runs)
    return ComparisonSection(
        anchor=anchor,
        title=f"{len(runs)} training runs",
        summary=tuple(dict.fromkeys(run.kind for run in runs)),
        charts=(
            epoch_chart(
                f"{anchor}-loss-plot",
                "Validation loss",
                f"Validation loss of {len(runs)} runs over their epochs ({told}).",
                losses,
                note="Nats a token. Of models that cut captions into different tokens, only the "
                "shapes can be compared, not the heights. Rings are at the best epochs.",
            ),
            epoch_chart(
                f"{anchor}-cider-plot",
                "CIDEr-D",
                f"CIDEr-D of generated captions of {len(runs)} runs over their epochs.",
                scores,
                note="Of captions generated for the validation sample.",
            ),
        ),
        runs=compared(runs, names),
    )


def _names(runs: Sequence[TrainingRun]) -> list[str]:
    """Name runs by their folder; by their whole address where two folders are called the same."""
    counts = Counter(run.name for run in runs)
    return [run.name if counts[run.name] == 1 else run.address for run in runs]


def _curve(number: int, name: str, run: TrainingRun, values: list[float]) -> Curve:
    return Curve(
        label=name,
        ink=f"line-{number % NUM_LINE_INKS}",
        epochs=[record.epoch for record in run.history],
        values=values,
        is_dashed=number // NUM_LINE_INKS % 2 == 1,
        ringed=run.best.epoch if run.best else None,
    )
