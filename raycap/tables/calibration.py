"""What calibrating came to: every setting that was tried, what it costs, and the chosen one."""

from rich.console import Console
from rich.table import Table

from raycap.calibration.record import Calibration
from raycap.calibration.search import Trial, frontier
from raycap.tables.columns import print_rows


def print_calibration(found: Calibration) -> None:
    """Print the trade-off from the shortest captions to the longest, then the choice."""
    Console().print(trial_table(found))
    print_rows(calibration_rows(found))
    Console().print(
        f"\nTry next:\n  raycap caption YOUR_FOLDER captions/ --model {found.output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def trial_table(found: Calibration) -> Table:
    """Show each setting with its scores; `*` marks those that none beats in both of the two."""
    names = ("min", "max", "penalty", "n-gram", "CIDEr-D", "BLEU-4", "tokens", "gap", "repeats")
    table = Table(box=None)
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("")
    best = frontier(found.trials)
    for trial in sorted(found.trials, key=lambda trial: (trial.length_gap, trial.cider_d)):
        table.add_row(*_cells(trial), _marks(trial, found, best))
    return table


def calibration_rows(found: Calibration) -> list[tuple[str, str]]:
    """Say what was compared on what, and what the chosen setting gains and costs."""
    start, chosen, images = found.start, found.chosen, found.images
    left_out = f", {images.num_unreadable:,} unreadable" if images.num_unreadable else ""
    rows = [
        ("tried", f"{len(found.trials)} settings on {images.num_images:,} images{left_out}"),
        ("references", f"{images.lengths.metric_tokens:.1f} tokens"),
        ("length gap", f"{start.length_gap:+.2f} -> {chosen.length_gap:+.2f} tokens"),
        ("CIDEr-D", f"{start.cider_d:.3f} -> {chosen.cider_d:.3f}"),
        ("repetitive", f"{start.repetition:.1%} -> {chosen.repetition:.1%} of the captions"),
    ]
    failed = max(trial.num_failed for trial in found.trials)
    if failed:
        rows.append(("failed", f"up to {failed:,} images, which score 0"))
    if chosen == start:
        rows.append(("chosen", "the setting to start from: no other qualifies"))
    elif abs(chosen.length_gap) > found.closed_gap:
        rows.append(("chosen", f"the smallest gap that {_condition(found)}"))
    else:
        rows.append(("chosen", "the best CIDEr-D of those that close the gap"))
    return [*rows, ("model", found.output)]


def _condition(found: Calibration) -> str:
    loss = found.max_cider_loss
    return f"loses at most {loss:.0%} of CIDEr-D" if loss else "loses no CIDEr-D"


def _cells(trial: Trial) -> list[str]:
    generation = trial.generation
    return [
        str(generation.min_new_tokens),
        str(generation.max_new_tokens),
        f"{generation.length_penalty:g}" if generation.num_beams > 1 else "-",
        str(generation.no_repeat_ngram_size or "-"),
        f"{trial.cider_d:.3f}",
        f"{trial.bleu_4:.3f}",
        f"{trial.mean_length:.1f}",
        f"{trial.length_gap:+.2f}",
        f"{trial.repetition:.0%}",
    ]


def _marks(trial: Trial, found: Calibration, best: list[Trial]) -> str:
    marks = ["*"] if trial in best else []
    marks += ["start"] if trial == found.start else []
    marks += ["[bold green]chosen[/bold green]"] if trial == found.chosen else []
    return " ".join(marks)
