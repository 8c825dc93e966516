"""The batch size that a captioner settles at, by how long its batches took."""

from collections.abc import Callable

import pytest

from raycap.captioning import resources
from raycap.captioning.batching import BatchSize
from raycap.captioning.stream import Resources
from raycap.config import ActorRange, CaptionConfig
from raycap.config.loading import validate_config
from raycap.models.base import BatchRange


def settle(allowed: BatchRange, seconds_of: Callable[[int], float]) -> list[int]:
    """Return the sizes that were tried, the one stayed at last."""
    batch_size = BatchSize(allowed)
    tried = []
    for _ in range(40):
        tried.append(batch_size.current)
        batch_size.note(batch_size.current, seconds_of(batch_size.current))
    return tried


def test_it_doubles_while_images_a_second_rise() -> None:
    tried = settle(BatchRange(least=4, most=64), lambda size: 1.0 + 0.001 * size)

    assert tried == [4, 4, 8, 8, 16, 16, 32, 32, *[64] * 32]


def test_it_goes_back_to_the_last_size_that_brought_something() -> None:
    tried = settle(BatchRange(least=4, most=64), lambda size: max(1.0, size / 16))

    assert tried == [4, 4, 8, 8, 16, 16, 32, 32, *[16] * 32]


def test_the_first_round_of_a_size_does_not_count() -> None:
    batch_size = BatchSize(BatchRange(least=4, most=8))
    for seconds in (100.0, 1.0):
        batch_size.note(4, seconds)
    for seconds in (100.0, 1.5):
        batch_size.note(8, seconds)

    assert batch_size.current == 8


def test_a_size_that_was_asked_for_stays() -> None:
    assert set(settle(BatchRange.fixed(7), lambda size: 1 / size)) == {7}


def test_it_does_not_grow_where_memory_would_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1_000, 1_100, 1_300, 1_300])
    monkeypatch.setattr("raycap.captioning.batching.peak_memory_bytes", lambda: next(peaks))
    monkeypatch.setattr("raycap.captioning.batching.spare_memory_bytes", lambda: 500)

    tried = settle(BatchRange(least=4, most=64), lambda size: 1.0 + 0.001 * size)

    # The second size took 200 bytes more; twice that size might take 800.
    assert set(tried[2:]) == {8}


def test_what_memory_sufficed_for_stays() -> None:
    batch_size = BatchSize(BatchRange(least=4, most=64))
    batch_size.shrink(2)
    for _ in range(4):
        batch_size.note(2, 0.01)

    assert batch_size.current == 2


@pytest.mark.parametrize(
    ("kind", "gpus", "batch_size", "expected"),
    [
        ("blip", 0.0, None, BatchRange(least=4, most=16)),
        ("blip", 1.0, None, BatchRange(least=16, most=128)),
        ("hybrid", 0.5, None, BatchRange(least=16, most=128)),
        ("stub", 1.0, None, BatchRange.fixed(64)),
        ("blip", 1.0, 5, BatchRange.fixed(5)),
    ],
)
def test_sizes_by_model_and_machine(
    kind: str, gpus: float, batch_size: int | None, expected: BatchRange
) -> None:
    config = validate_config(CaptionConfig, {"engine": {"batch_size": batch_size}})
    fitted = Resources(actors=ActorRange(min=1, max=1), gpus_per_actor=gpus, cpus_per_actor=1.0)

    assert resources.fit_batches(config, kind, fitted) == expected


@pytest.mark.parametrize(
    ("kind", "gpus", "draws", "expected"),
    [
        ("blip", 1.0, False, 2),
        ("blip", 1.0, True, 1),
        ("blip", 0.0, False, 1),
        ("stub", 1.0, False, 1),
    ],
)
def test_two_batches_are_in_flight_on_an_accelerator(
    kind: str, gpus: float, draws: bool, expected: int
) -> None:
    generation = {"num_beams": 1, "sampling": {"enabled": draws}}
    config = validate_config(CaptionConfig, {"generation": generation})
    fitted = Resources(actors=ActorRange(min=1, max=1), gpus_per_actor=gpus, cpus_per_actor=1.0)

    assert resources.count_lanes(config, kind, fitted) == expected
