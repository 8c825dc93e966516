"""Trainings, searches, studies and calibrations as names and values, and as tables."""

from collections.abc import Sequence

from raycap.results.calibration import Calibration
from raycap.results.display import Rows, Shown, Table
from raycap.results.search import Search, Trial, by_value
from raycap.results.shown.curves import loss_curves
from raycap.results.status import Status
from raycap.results.study import REPORT, SUMMARY, Study, SystemRecord
from raycap.results.training import EpochRecord, Training, chosen_by, judge_fit
from raycap.text import duration

_END = {
    "finished": "after all {epochs} epochs",
    "exhausted": "early: {metric} stopped improving",
}


def training_rows(found: Training) -> Rows:
    """Return the summary of a training run as names and values."""
    metric = found.metric
    rows = [
        ("images", f"{found.num_images:,}"),
        ("steps", f"{found.num_steps:,} of {found.global_batch:,} images"),
        ("ended", _END[found.end].format(metric=metric, epochs=found.num_epochs)),
        ("best epoch", f"{found.best.epoch} by {chosen_by(found.history, found.best, metric)}"),
    ]
    num_unreadable = found.last.num_unreadable
    if num_unreadable:
        rows.append(("unreadable", f"{num_unreadable:,} images per epoch"))
    losses = [record.losses for record in found.history]
    rows.append(("watch", judge_fit(losses, found.overfits_since)))
    return [*rows, ("rate", f"{found.images_per_s:g} images/s"), ("output", found.output)]


_MAX_ROWS = 20


def search_rows(found: Search) -> Rows:
    """Return the summary of a search as names and values."""
    counts = [f"{found.count(it)} {it}" for it in Status if found.count(it)]
    shown = len(shown_trials(found))
    left_out = f"; the {shown} best are shown" if shown < len(found.trials) else ""
    rows = [("trials", f"{', '.join(counts) or 'none'} of {found.num_planned} planned{left_out}")]
    if found.end == "budget":
        rows.append(("ended", "budget reached; raise it to continue"))
    if found.best:
        best = found.trial(found.best)
        rows.append(("best", f"{describe_params(best)}: {found.metric} {best.value:z.3f}"))
    return [*rows, ("output", found.output)]


def describe_params(trial: Trial) -> str:
    """Format a trial's settings as `name=value`."""
    return " ".join(f"{name}={show(value)}" for name, value in sorted(trial.params.items()))


def show(value: object) -> str:
    """Format a setting's value."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_trials(found: Search) -> Sequence[Trial]:
    """Return the trials to show: running ones first, then by value."""
    metric = found.metric
    running = [trial for trial in found.trials if trial.status is Status.RUNNING]
    others = [trial for trial in found.trials if trial.status is not Status.RUNNING]
    return [*running, *by_value(others, metric)][:_MAX_ROWS]


def calibration_rows(found: Calibration) -> Rows:
    """Return what was compared, and the gain and cost of the choice, as names and values."""
    start, chosen, images = found.start, found.chosen, found.images
    left_out = f", {images.num_unreadable:,} unreadable" if images.num_unreadable else ""
    rows = [
        ("tried", f"{len(found.trials)} settings on {images.num_images:,} images{left_out}"),
        ("references", f"{images.lengths.metric_tokens:.1f} tokens"),
        ("length gap", f"{start.length_gap:+z.2f} -> {chosen.length_gap:+z.2f} tokens"),
        ("CIDEr-D", f"{start.cider_d:.3f} -> {chosen.cider_d:.3f}"),
        ("repetitive", f"{start.repetition:.1%} -> {chosen.repetition:.1%} of the captions"),
    ]
    failed = max(trial.num_failed for trial in found.trials)
    if failed:
        rows.append(("failed", f"up to {failed:,} images, scored 0"))
    if chosen == start:
        rows.append(("chosen", "the starting settings: no others qualify"))
    elif abs(chosen.length_gap) > found.closed_gap:
        rows.append(("chosen", f"the smallest gap that {_condition(found)}"))
    else:
        rows.append(("chosen", "the best CIDEr-D among the settings that close the gap"))
    return [*rows, ("model", found.output)]


def _condition(found: Calibration) -> str:
    loss = found.max_cider_loss
    return f"loses at most {loss:.0%} of CIDEr-D" if loss else "loses no CIDEr-D"


_SCORES = ("cider_d", "bleu_4", "mean_tokens", "length_gap")
_LOSSES = ("train", "fitted", "validation", "gap")
EPOCH_HEADINGS = ("epoch", *_LOSSES, "CIDEr-D", "BLEU-4", "tokens", "length gap", "")
"""Fits 80 columns."""


def epoch_cells(record: EpochRecord, *, best: int) -> list[str]:
    """Return the losses and scores of an epoch, below EPOCH_HEADINGS."""
    losses = (record.train_loss, record.fitted_loss, record.validation_loss, record.gap)
    numbers = [f"{value:z.3f}" for value in (*losses, *(record.scores[n] for n in _SCORES))]
    return [str(record.epoch), *numbers, "best" if record.epoch == best else ""]


def show_training(found: Training) -> Shown:
    """Show the epochs, the curves of the losses, and the verdict on overfitting."""
    best = found.best.epoch
    rows = [epoch_cells(record, best=best) for record in found.history]
    return Shown(
        title=f"Training of a {found.kind}",
        rows=training_rows(found),
        tables=[Table(headings=EPOCH_HEADINGS, rows=rows)],
        drawing=loss_curves(found.history, best=best, since=found.overfits_since),
    )


def show_search(found: Search) -> Shown:
    """Show the trials of a search."""
    rows = [
        [
            trial.name,
            describe_params(trial),
            str(len(trial.history)),
            "-" if trial.value is None else f"{trial.value:z.3f}",
            f"{trial.status}, best" if trial.name == found.best else str(trial.status),
        ]
        for trial in shown_trials(found)
    ]
    table = Table(headings=("trial", "settings", "epochs", found.metric, "status"), rows=rows)
    return Shown(title="Search", rows=search_rows(found), tables=[table])


def study_rows(found: Study) -> Rows:
    """Return the recommendation of a study, and where its files are."""
    return [
        ("people", f"{found.reference_mean_words:.1f} words on {found.num_images:,} test images"),
        *(("decide" if place == 0 else "", line) for place, line in enumerate(found.decision)),
        ("time", duration(found.wall_s)),
        ("report", f"{found.output}/{REPORT}"),
        ("summary", f"{found.output}/{SUMMARY}"),
    ]


_STUDY_SCORES = (("mean_words", 1), ("cider_d", 3), ("bleu_4", 3))
"""Scores of the table, and their decimal places."""


def study_cells(system: SystemRecord) -> list[str]:
    """Return the scores of a system, below STUDY_HEADINGS but the last."""
    scores, training = system.scores, system.training
    since = training.overfits_since if training else None
    return [
        system.name,
        *(_score(system, name, digits) for name, digits in _STUDY_SCORES),
        f"{training.gap:+z.3f}" if training else "-",
        f"epoch {since}" if since else "-",
        duration(system.wall_s) if scores or system.status is Status.FINISHED else "-",
    ]


def _score(system: SystemRecord, name: str, digits: int) -> str:
    score = system.scores.get(name)
    return "-" if score is None else f"{score.value:.{digits}f}"


STUDY_HEADINGS = ("system", "words", "CIDEr-D", "BLEU-4", "gap", "overfits", "time", "")


def show_study(found: Study) -> Shown:
    """Show the systems of a study and its recommendation."""
    states = [
        "best" if system.name == found.best else "" if system.scores else str(system.status)
        for system in found.systems
    ]
    pairs = zip(found.systems, states, strict=True)
    table = Table(
        headings=STUDY_HEADINGS, rows=[[*study_cells(system), state] for system, state in pairs]
    )
    return Shown(title="Study", rows=study_rows(found), tables=[table])


def show_calibration(found: Calibration) -> Shown:
    """Show the gain and cost of the chosen settings."""
    return Shown(title="Calibration", rows=calibration_rows(found))
