"""What a study's systems came to, as dots: lengths, CIDEr-D, and what augmentation changes."""

import math
from collections.abc import Callable, Iterator

from raycap.report.curves import Chart
from raycap.report.numbers import decimal, signed
from raycap.report.study_dots import Dot, DotRow, dot_chart
from raycap.report.study_record import (
    MEAN_WORDS,
    Study,
    StudyScore,
    StudySystem,
    share_name,
)
from raycap.schema import CIDER_D

Measure = Callable[[StudySystem], StudyScore | None]
_Pair = tuple[StudySystem, StudySystem]


def length_chart(study: Study, anchor: str) -> Chart | None:
    """Draw how many words each main system writes, against people; None before any is scored."""
    people = study.people_words
    return dot_chart(
        f"{anchor}-length-plot",
        "Words a caption",
        "words a caption, in the mean",
        [
            DotRow(
                label=system.name,
                ink=study.ink(system.role),
                dots=(Dot(value=words),),
                told=_against(words, people),
            )
            for system in study.main
            if (words := system.value(MEAN_WORDS)) is not None
        ],
        people=None if people is None else (people, f"people: {decimal(people, 1)}"),
        note=f"Mean words of the captions of the {study.split} split. The dashed line is what "
        "people wrote about the same images; the bars are what is missing, or too much.",
    )


def score_chart(study: Study, anchor: str) -> Chart | None:
    """Draw the CIDEr-D of each main system with its interval; None before any is scored."""
    return dot_chart(
        f"{anchor}-score-plot",
        "CIDEr-D",
        "CIDEr-D against what people wrote",
        [
            DotRow(
                label=system.name,
                ink=study.ink(system.role),
                dots=(Dot(value=found.value, low=found.low, high=found.high),),
                told=decimal(found.value),
            )
            for system in study.main
            if (found := system.score(CIDER_D)) is not None
        ],
        note="Higher is better. Lines through the dots are confidence intervals over images.",
    )


def augmentation_charts(study: Study, anchor: str) -> tuple[Chart, ...]:
    """Draw CIDEr-D and generalisation gap with and without augmentation on the same images."""
    pairs = tuple(_pairs(study))
    charts = (
        dot_chart(
            f"{anchor}-augmentation-score-plot",
            "CIDEr-D with and without augmentation",
            "CIDEr-D",
            list(_paired(study, pairs, cider_of, decimal)),
            note="Hollow: without augmentation. Filled: with it. Higher is better.",
        ),
        dot_chart(
            f"{anchor}-augmentation-gap-plot",
            "Generalisation gap with and without augmentation",
            "loss on validation images less that on training images",
            list(_paired(study, pairs, gap_of, signed)),
            note="Hollow: without augmentation. Filled: with it. Nearer to 0 is better.",
        ),
    )
    return tuple(chart for chart in charts if chart is not None)


def cider_of(system: StudySystem) -> StudyScore | None:
    """Give a system's CIDEr-D."""
    return system.score(CIDER_D)


def words_of(system: StudySystem) -> StudyScore | None:
    """Give the mean words of a system's captions."""
    return system.score(MEAN_WORDS)


def gap_of(system: StudySystem) -> StudyScore | None:
    """Give a system's generalisation gap."""
    return _known(None if system.training is None else system.training.gap)


def loss_of(system: StudySystem) -> StudyScore | None:
    """Give a system's validation loss."""
    return _known(None if system.training is None else system.training.validation_loss)


def _known(value: float | None) -> StudyScore | None:
    return None if value is None or not math.isfinite(value) else StudyScore(value=value)


def _against(words: float, people: float | None) -> str:
    told = decimal(words, 1)
    if people is None:
        return told
    difference = decimal(abs(words - people), 1)
    if difference == "0.0":
        return f"{told}, as people"
    return f"{told}, {difference} {'fewer' if words < people else 'more'}"


def _pairs(study: Study) -> Iterator[_Pair]:
    """Find systems that were trained on the same images without and with augmentation."""
    plain = {(it.role, it.subset): it for it in study.trained() if not it.is_augmented}
    for system in study.trained():
        other = plain.get((system.role, system.subset))
        if system.is_augmented and other is not None:
            yield other, system


def _paired(
    study: Study, pairs: tuple[_Pair, ...], measure: Measure, show: Callable[[float], str]
) -> Iterator[DotRow]:
    for plain, augmented in pairs:
        before, after = measure(plain), measure(augmented)
        if before is None or after is None:
            continue
        is_whole = augmented.subset == 1
        of = "" if is_whole else f", {share_name(augmented.subset)}"
        yield DotRow(
            label=f"{augmented.role}{of}",
            ink=study.ink(augmented.role),
            dots=(Dot(value=before.value, is_hollow=True), Dot(value=after.value)),
            told=f"{show(before.value)} \N{RIGHTWARDS ARROW} {show(after.value)}",
        )
