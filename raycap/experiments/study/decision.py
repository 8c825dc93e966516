"""Conclusions of a study: which model to take, why, at what cost; and `summary.md`."""

from collections.abc import Iterator, Sequence

from raycap.experiments.study.planning import CALIBRATED, FINETUNED, PRETRAINED
from raycap.results.evaluation import Comparison
from raycap.results.labels import DIFFERENT_CAPTIONS
from raycap.results.status import Status
from raycap.results.study import Score, Study, SystemRecord
from raycap.schema import BLEU, CIDER_D
from raycap.text import duration

_SIGNIFICANT = 0.05
_FROM_SCRATCH = ("cnn-lstm", "transformer", "hybrid")
_MIB = 2**20
_HEADINGS = (
    "system",
    "words",
    "length gap",
    "CIDEr-D",
    "BLEU-4",
    "generalisation gap",
    "trained on",
    "time",
    "images/s",
    "memory",
)


def pick_best(systems: Sequence[SystemRecord]) -> SystemRecord | None:
    """Return the main system with the best CIDEr-D."""
    scored = [system for system in systems if system.is_main and CIDER_D in system.scores]
    return max(scored, key=lambda system: system.scores[CIDER_D].value, default=None)


def decide(
    systems: Sequence[SystemRecord], comparisons: Sequence[Comparison], reference_words: float
) -> list[str]:
    """Return the conclusions, one sentence or two per line; only about what was measured."""
    best = pick_best(systems)
    if best is None:
        return ["No system was scored."]
    lines = [_choice(best, systems, comparisons), _length(best, systems, reference_words)]
    lines += _calibration(systems, reference_words)
    lines += _blindness(systems)
    lines += _overfitting(systems)
    lines += _augmentation(systems)
    lines += _growth(systems)
    return lines


def _choice(
    best: SystemRecord, systems: Sequence[SystemRecord], comparisons: Sequence[Comparison]
) -> str:
    score = best.scores[CIDER_D]
    cost = f"at a cost of {duration(best.wall_s)}"
    text = f"Take {best.name}: the best CIDEr-D, {score.value:.3f}{_interval(score)}, {cost}."
    rivals = [system for system in systems if system.is_main and system.scores and system != best]
    if not rivals:
        return text
    second = max(rivals, key=lambda system: system.scores[CIDER_D].value)
    found = next(
        (
            it
            for it in comparisons
            if it.metric == CIDER_D and {it.first, it.second} == {best.name, second.name}
        ),
        None,
    )
    if found is None:
        return text
    verdict = (
        "a difference beyond chance"
        if found.p_value < _SIGNIFICANT and round(found.difference, 3) != 0
        else "a difference that chance may explain"
    )
    ahead = abs(found.difference)
    return (
        f"{text} It is {ahead:.3f} ahead of {second.name}, {verdict} (p = {found.p_value:.3f}, "
        "paired bootstrap)."
    )


def _length(best: SystemRecord, systems: Sequence[SystemRecord], reference_words: float) -> str:
    text = (
        f"References have {reference_words:.1f} words per caption; {best.name} writes "
        f"{best.scores['mean_words'].value:.1f}"
    )
    pretrained = _main(systems, PRETRAINED)
    if pretrained is None or pretrained == best:
        return f"{text}."
    return f"{text}, {pretrained.name} {pretrained.scores['mean_words'].value:.1f}."


def _calibration(systems: Sequence[SystemRecord], reference_words: float) -> list[str]:
    calibrated, finetuned = _main(systems, CALIBRATED), _main(systems, FINETUNED)
    if calibrated is None:
        return []
    text = (
        f"Length calibration alone, without training, brings it to "
        f"{calibrated.scores['mean_words'].value:.1f} of {reference_words:.1f} words and CIDEr-D "
        f"{calibrated.scores[CIDER_D].value:.3f}"
    )
    if finetuned is None:
        return [f"{text}."]
    gain = finetuned.scores[CIDER_D].value - calibrated.scores[CIDER_D].value
    return [f"{text}: fine-tuning is worth {gain:+z.3f} more than longer captions."]


def _blindness(systems: Sequence[SystemRecord]) -> list[str]:
    """Name the systems that write one caption for all images, which overlap scores may reward."""
    return [
        f"{system.name} writes the same caption for every image: it has learned how people write, "
        "not what the images show."
        for system in systems
        if system.is_main and system.scores.get(DIFFERENT_CAPTIONS) == Score(value=1.0)
    ]


def _overfitting(systems: Sequence[SystemRecord]) -> list[str]:
    lines = []
    for role in (*_FROM_SCRATCH, FINETUNED):
        system = _main(systems, role)
        if system is None or system.training is None:
            continue
        found = system.training
        text = f"{system.name}: validation loss {found.validation_loss:.3f}, "
        text += f"{found.gap:+z.3f} from the training images' at its best epoch"
        if found.overfits_since is not None:
            text += f"; it overfits from epoch {found.overfits_since} on"
        lines.append(f"{text}.")
    return lines


def _augmentation(systems: Sequence[SystemRecord]) -> list[str]:
    lines = []
    for plain in systems:
        if plain.training is None or plain.is_augmented or not plain.scores:
            continue
        other = next(
            (
                it
                for it in systems
                if it.role == plain.role and it.subset == plain.subset and it.is_augmented
            ),
            None,
        )
        if other is None or other.training is None or not other.scores:
            continue
        gain = other.scores[CIDER_D].value - plain.scores[CIDER_D].value
        gap = other.training.gap - plain.training.gap
        lines.append(
            f"Augmentation changes {other.name} by {gain:+z.3f} CIDEr-D and its generalisation gap "
            f"by {gap:+z.3f}."
        )
    return lines


def _growth(systems: Sequence[SystemRecord]) -> list[str]:
    lines = []
    for role in (*_FROM_SCRATCH, FINETUNED):
        sizes = sorted(
            (it for it in systems if it.role == role and it.is_augmented and it.scores),
            key=lambda it: it.subset,
        )
        if len(sizes) < 2:
            continue
        last, before = sizes[-1], sizes[-2]
        gain = last.scores[CIDER_D].value - before.scores[CIDER_D].value
        lines.append(
            f"Growing the training set of {role} from {before.subset:.0%} to {last.subset:.0%} "
            f"changes CIDEr-D by {gain:+z.3f}."
        )
    return lines


def _main(systems: Sequence[SystemRecord], role: str) -> SystemRecord | None:
    return next((it for it in systems if it.is_main and it.role == role and it.scores), None)


def _interval(score: Score) -> str:
    low, high = score.low, score.high
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"


def summarise(study: Study) -> str:
    """Return the study as Markdown: the conclusions and a table of the systems."""
    main = [system for system in study.systems if system.is_main]
    others = [system for system in study.systems if not system.is_main]
    lines = [
        f"# Captioners compared on {study.num_images:,} images",
        "",
        f"Test split of `{study.dataset}`. References have {study.reference_mean_words:.1f} words "
        f"({study.reference_mean_tokens:.1f} tokens) per caption. Intervals cover 95 % of the "
        "bootstrap resamples of the images.",
        "",
        "## What to decide by",
        "",
        *(f"- {line}" for line in study.decision),
        "",
        "## The systems",
        "",
        *_table(main),
    ]
    if others:
        lines += ["", "## On less data, and without augmentation", "", *_table(others)]
    failed = [system for system in study.systems if system.status is Status.FAILED]
    if failed:
        lines += ["", "## Failed", "", *(f"- {it.name}: {it.reason}" for it in failed)]
    return "\n".join(lines) + "\n"


def _table(systems: list[SystemRecord]) -> Iterator[str]:
    yield _row(_HEADINGS)
    yield _row(["---", *["---:"] * (len(_HEADINGS) - 1)])
    for system in systems:
        yield _row(_cells(system))


def _cells(system: SystemRecord) -> list[str]:
    scores, training = system.scores, system.training
    rates = [f"{system.captioning_images_per_s:.1f} captioning"]
    if training:
        rates.insert(0, f"{training.images_per_s:.1f} training")
    return [
        system.name,
        _value(scores.get("mean_words"), 1),
        _value(scores.get("length_gap"), 2, signed=True),
        _value(scores.get(CIDER_D), 3),
        _value(scores.get(BLEU[-1]), 3),
        f"{training.gap:+z.3f}" if training else "-",
        f"{training.num_images:,}" if training else "-",
        duration(system.wall_s) if system.status is Status.FINISHED else "-",
        ", ".join(rates) if system.status is Status.FINISHED else "-",
        f"{training.peak_memory_bytes / _MIB:,.0f} MB" if training else "-",
    ]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _value(score: Score | None, digits: int, *, signed: bool = False) -> str:
    if score is None:
        return "-"
    form = f"{'+' if signed else ''}.{digits}f"
    text = format(score.value, form)
    if score.low is None or score.high is None:
        return text
    return f"{text} [{format(score.low, form)}, {format(score.high, form)}]"
