import os
from random import Random

import pytest

from raycap.answers.same import LEAST_STOPPED, LEAST_SUSPECTED, WINDOW, SameCaption, SameCaptions
from tests.support.good_answers import real_captions

SAME = "a man riding a wave on top of a surfboard"


def different(number: int) -> tuple[str, float]:
    return f"a photo of the number {number}", -1.0 - number / 7


def counted(num_same: int, num_different: int, spread: float = 0.0) -> SameCaptions:
    counts, rng = SameCaptions(), Random(0)
    rows = [(SAME, -0.5 + spread * n) for n in range(num_same)]
    rows += [different(n) for n in range(num_different)]
    rng.shuffle(rows)
    for number, (caption, logprob) in enumerate(rows):
        counts.add(f"{number}.jpg", caption, logprob)
    return counts


def test_one_caption_with_one_score_is_suspected() -> None:
    found = counted(LEAST_SUSPECTED, 50).suspected()
    assert found == SameCaption(caption=SAME, num_images=LEAST_SUSPECTED, num_of=250)


def test_few_images_prove_nothing() -> None:
    assert counted(LEAST_SUSPECTED - 1, 0).suspected() is None


def test_images_that_are_nearly_alike_are_not_suspected() -> None:
    assert counted(1_000, 0, spread=0.002).suspected() is None


def test_an_unknown_score_counts_as_the_same() -> None:
    counts = SameCaptions()
    for number in range(LEAST_SUSPECTED):
        counts.add(number, SAME, None)
    assert counts.suspected() is not None


def test_copies_of_a_file_count_once() -> None:
    counts = SameCaptions()
    for _ in range(WINDOW):
        counts.add("digest", SAME, -0.5)
    assert counts.suspected() is None


def test_short_answers_do_not_count() -> None:
    counts = SameCaptions()
    for number in range(2 * LEAST_STOPPED):
        counts.add(number, "Yes, it is.", -0.5)
    assert counts.suspected() is None
    assert counts.above(0.1) is None


def test_the_bound_counts_captions_of_any_score() -> None:
    counts = counted(500, 500, spread=0.002)
    assert counts.above(0.5) is None
    found = counts.above(0.49)
    assert found is not None
    assert found.share == pytest.approx(0.5)


def test_the_bound_needs_a_thousand_images() -> None:
    assert counted(LEAST_STOPPED - 1, 0).above(0.1) is None


def test_a_fault_that_begins_late_is_noticed() -> None:
    counts = counted(0, 10 * WINDOW)
    assert counts.suspected() is None
    for number in range(WINDOW + LEAST_SUSPECTED):
        counts.add(f"later {number}", SAME, -0.5)
    assert counts.suspected() is not None


@pytest.mark.skipif("RAYCAP_REAL_PHOTOS" not in os.environ, reason="needs captions of COCO")
def test_real_captions_are_not_suspected() -> None:
    counts = SameCaptions()
    for number, caption in enumerate(real_captions()):
        counts.add(number, caption, None)
    assert counts.suspected() is None
