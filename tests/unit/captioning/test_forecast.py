"""What a sample says of a run: arithmetic, against numbers worked out by hand."""

from dataclasses import replace

import pytest

from raycap.captioning.forecast import (
    Round,
    RunAhead,
    Workers,
    bottleneck,
    count,
    estimate,
    pace,
    run_rate,
    stage,
)
from raycap.models.base import BatchRange
from raycap.preflights.run import distinct, spread
from raycap.results.preflight import DECODE, FETCH, MODEL
from tests.support.sampled import sampled, table_of

RUN = RunAhead(
    num_images=36_000,
    workers=Workers(captioners=2, load_tasks=3, cores=4),
    max_batch=4,
    gpus_per_captioner=0.0,
    fetch_threads=10,
    fetches_tell=True,
    price_per_hour=None,
    start_s=0.0,
)


def rounds(captioner: str, *told: tuple[int, float]) -> list[Round]:
    """Rounds of one captioner, each of one batch: size and seconds."""
    return [
        Round(captioner=captioner, batch_size=size, num_images=size, seconds=seconds)
        for size, seconds in told
    ]


def test_the_first_round_of_a_batch_size_is_left_out() -> None:
    found = pace(rounds("a", (4, 9.0), (4, 2.0), (4, 2.0)), 4)
    assert found is not None
    assert (found.seconds_per_image, found.batch_size, found.may_grow) == (0.5, 4, False)


def test_only_the_batches_that_a_captioner_settled_at_count() -> None:
    told = rounds("a", (4, 9.0), (4, 4.0), (8, 9.0), (8, 4.0), (16, 99.0), (8, 5.0), (8, 3.0))
    found = pace(told, 64)
    assert found is not None
    # Of size 8: 9.0 was its first round. 16 was tried and left: larger ones are no faster.
    assert found.seconds_per_image == pytest.approx((4.0 + 5.0 + 3.0) / 24)
    assert (found.batch_size, found.may_grow) == (8, False)


def test_a_batch_size_that_was_still_rising_may_grow() -> None:
    told = rounds("a", (16, 9.0), (16, 4.0), (32, 9.0), (32, 4.0))
    assert [pace(told, most).may_grow for most in (32, 64)] == [False, True]  # type: ignore[union-attr]


def test_captioners_are_warm_each_for_itself_and_weigh_by_their_images() -> None:
    mixed = [*rounds("a", (4, 50.0)), *rounds("b", (4, 60.0)), *rounds("a", (4, 2.0))]
    mixed += rounds("b", (4, 6.0))
    found = pace(mixed, 4)
    assert found is not None
    assert found.seconds_per_image == pytest.approx(8.0 / 8)


def test_a_sample_of_less_than_a_round_counts_as_it_is() -> None:
    part = Round(captioner="a", batch_size=64, num_images=5, seconds=2.0)
    found = pace([part], 64)
    assert found is not None
    assert found.seconds_per_image == pytest.approx(0.4)
    # Where there are whole rounds too, the rest of a block says less.
    found = pace([*rounds("a", (64, 9.0), (64, 6.4)), part], 64)
    assert found is not None
    assert found.seconds_per_image == pytest.approx(0.1)
    assert pace([], 64) is None


def test_a_run_is_as_fast_as_its_slowest_stage() -> None:
    stages = (stage(FETCH, 0.5, 30), stage(DECODE, 0.02, 4), stage(MODEL, 0.1, 2))
    assert [one.images_per_s for one in stages] == pytest.approx([60, 200, 20])
    assert bottleneck(stages) == MODEL
    assert run_rate(stages, shares_cores=False) == pytest.approx(20)
    # An image takes 1/200 s and 1/20 s of the same cores.
    assert run_rate(stages, shares_cores=True) == pytest.approx(1 / (1 / 200 + 1 / 20))
    slow_fetch = (stage(FETCH, 15.0, 30), *stages[1:])
    assert bottleneck(slow_fetch) == FETCH
    assert run_rate(slow_fetch, shares_cores=True) == pytest.approx(2)


def test_a_stage_that_took_no_time_holds_nothing_up() -> None:
    stages = (stage(FETCH, 0.0, 30), stage(DECODE, 0.0, 4), stage(MODEL, 0.1, 2))
    assert stages[0].images_per_s is None
    assert bottleneck(stages) == MODEL
    assert run_rate(stages, shares_cores=True) == pytest.approx(20)


def test_time_hours_and_cost_of_a_run() -> None:
    warm = rounds("a", (4, 9.0), (4, 0.8))  # 0.2 s an image, two captioners: 10 images/s
    answered = table_of([sampled("a.jpg", *warm, decode_s=0.0)])
    found = estimate(answered, replace(RUN, price_per_hour=3.0))
    assert found is not None
    assert (found.bottleneck, found.unit, found.num_captioners) == (MODEL, "captioner", 2)
    assert found.images_per_s == pytest.approx(10)
    assert found.run_s == pytest.approx(3600)
    assert found.unit_hours == pytest.approx(2)
    assert found.cost == pytest.approx(6)
    on_gpus = estimate(answered, replace(RUN, gpus_per_captioner=0.5))
    assert on_gpus is not None
    assert (on_gpus.unit, on_gpus.cost) == ("GPU", None)
    assert on_gpus.unit_hours == pytest.approx(1)


def test_the_start_counts_once_and_a_run_without_images_takes_no_time() -> None:
    answered = table_of([sampled("a.jpg", *rounds("a", (4, 9.0), (4, 0.8)), decode_s=0.0)])
    found = estimate(answered, replace(RUN, start_s=60.0))
    nothing = estimate(answered, replace(RUN, start_s=60.0, num_images=0, price_per_hour=3.0))
    assert found is not None
    assert nothing is not None
    assert found.run_s == pytest.approx(3660)
    assert (nothing.run_s, nothing.unit_hours, nothing.cost) == (0, 0, 0)


def test_images_that_fail_cost_the_stages_that_they_reach() -> None:
    warm = rounds("a", (4, 9.0), (4, 0.8))
    gone = sampled("b.jpg", is_ok=False, fetch_s=2.5, decode_s=0.0, error_code="not_found")
    refused = sampled("c.jpg", is_ok=False, error_code="model_rejected")
    bad = sampled("d.jpg", is_ok=False, decode_s=0.03)
    answered = table_of([sampled("a.jpg", *warm), gone, refused, bad])
    found = estimate(answered, RUN)
    assert found is not None
    seconds = {one.name: one.seconds_per_image for one in found.stages}
    # Two of the four reached the model.
    assert seconds == pytest.approx({FETCH: 1.0, DECODE: 0.0125, MODEL: 0.1})
    counts = count(answered)
    assert (counts.num_images, counts.num_ok, counts.num_failed) == (4, 1, 3)
    assert counts.failed == {"decode_failed": 1, "model_rejected": 1, "not_found": 1}
    assert counts.failed_share == 0.75


def test_without_an_image_that_reached_the_model_there_is_no_estimate() -> None:
    answered = table_of([sampled("a.jpg", is_ok=False)])
    assert estimate(answered, RUN) is None
    counts = count(answered)
    assert (counts.num_ok, counts.mean_words, counts.lengths) == (0, 0.0, {})


def test_fetches_that_say_nothing_of_a_run_are_told_and_not_counted() -> None:
    warm = rounds("a", (4, 9.0), (4, 0.8))
    answered = table_of([sampled("a.jpg", *warm, fetch_s=1000.0)])
    counted, told = estimate(answered, RUN), estimate(answered, replace(RUN, fetches_tell=False))
    assert counted is not None
    assert told is not None
    assert (counted.bottleneck, told.bottleneck) == (FETCH, MODEL)
    assert (told.stages[0].seconds_per_image, told.stages[0].images_per_s) == (1000.0, None)


def test_lengths_are_counted_of_captions_alone() -> None:
    rows = [sampled(f"{n}.jpg", num_words=n % 3 + 1) for n in range(6)]
    counts = count(table_of([*rows, sampled("x.jpg", is_ok=False)]))
    assert (counts.lengths, counts.mean_words) == ({1: 2, 2: 2, 3: 2}, 2.0)


@pytest.mark.parametrize(
    ("batches", "num_images", "num_captioners", "most"),
    [
        (BatchRange(least=4, most=16), 200, 1, 16),
        (BatchRange(least=16, most=128), 200, 1, 100),
        (BatchRange(least=16, most=128), 200, 4, 25),
        (BatchRange(least=16, most=128), 20, 4, 16),
        (BatchRange.fixed(64), 20, 4, 64),
    ],
)
def test_batches_are_bounded_so_that_every_captioner_gets_images(
    batches: BatchRange, num_images: int, num_captioners: int, most: int
) -> None:
    found = spread(batches, num_images, num_captioners)
    assert (found.least, found.most) == (batches.least, most)


def test_what_was_answered_twice_counts_once_in_the_order_in_which_it_came() -> None:
    rows = table_of([sampled(f"{n}.jpg") for n in range(4)])
    again = rows.take([2, 3, 1, 2, 0, 3])
    assert distinct(again)["image_id"].to_pylist() == ["2.jpg", "3.jpg", "1.jpg", "0.jpg"]
