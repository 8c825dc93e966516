"""The study in Markdown: the table and what to decide by, to paste into a README."""

from collections.abc import Iterator

from raycap.experiments.study.record import Score, Status, Study, SystemRecord
from raycap.reporting.numbers import duration
from raycap.schema import BLEU, CIDER_D

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


def summarise(study: Study) -> str:
    """Write the study as Markdown."""
    main = [system for system in study.systems if system.is_main]
    others = [system for system in study.systems if not system.is_main]
    lines = [
        f"# Captioners compared on {study.num_images:,} images",
        "",
        f"Test split of `{study.dataset}`. People wrote {study.reference_mean_words:.1f} words "
        f"({study.reference_mean_tokens:.1f} tokens) a caption. Intervals cover 95 % of resamples "
        "of the images.",
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
        f"{training.gap:+.3f}" if training else "-",
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
