"""Damaged images of every format, for a few seconds; `python -m tests.fuzz.decoder` runs longer."""

import multiprocessing
from random import Random

import pytest

from raycap.config import ImageConfig
from raycap.images.decoding import decode
from tests.fuzz.child import FAILED, TARGET, Limits
from tests.fuzz.decoder import describe
from tests.fuzz.mutations import MUTATIONS, mutated
from tests.fuzz.seeds import SEEDS
from tests.fuzz.watching import Outcome, fuzz

INPUTS = 2_000


def limits(memory_bytes: int = 512_000_000) -> Limits:
    seeds = tuple(SEEDS.values())
    return Limits(seeds=seeds, seed=20, max_pixels=16_000_000, memory_bytes=memory_bytes)


def test_damaged_images_neither_crash_nor_hang_nor_grow_nor_surprise() -> None:
    outcome = fuzz(range(INPUTS), limits())
    assert outcome.findings == [], describe(outcome)
    assert sum(outcome.counts.values()) == INPUTS
    assert outcome.counts[FAILED] == 0
    # Not all damage is noticed, and not all files are beyond reading: both ways are walked.
    assert min(outcome.counts[name] for name in ("decoded", "decode_failed", "too_large")) > 20


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
@pytest.mark.parametrize("name", SEEDS)
def test_every_seed_is_sound(name: str) -> None:
    image = decode(SEEDS[name], TARGET, ImageConfig())
    assert image.width_px * image.height_px > 0


def test_the_same_number_gives_the_same_input() -> None:
    seeds = tuple(SEEDS.values())
    first = [mutated(seeds, 3, number) for number in range(300)]
    assert first == [mutated(seeds, 3, number) for number in range(300)]
    assert len(set(first)) > 290
    assert first != [mutated(seeds, 4, number) for number in range(300)]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("data", [b"\0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"RIFF", b"\xff\xd8\xff"])
def test_every_mutation_takes_any_file(mutation: object, data: bytes) -> None:
    assert callable(mutation)
    for number in range(20):
        assert isinstance(mutation(data, b"other", Random(number)), bytes)


def test_an_input_that_takes_too_much_memory_is_a_finding_and_the_next_ones_are_decoded() -> None:
    outcome = fuzz(range(2), limits(memory_bytes=-1))
    assert [found.number for found in outcome.findings] == [0, 1]
    assert all(found.reason.startswith("took ") for found in outcome.findings)
    assert sum(outcome.counts.values()) == 2


def test_an_input_that_ends_its_process_is_a_finding_and_the_next_ones_are_decoded() -> None:
    killed: list[int] = []

    def kill_once(following: int, _outcome: Outcome) -> None:
        if following > 0 and not killed:
            killed.append(following)
            for child in multiprocessing.active_children():
                child.kill()

    outcome = fuzz(range(INPUTS), limits(), tell=kill_once)
    assert killed
    (found,) = outcome.findings
    assert found.reason == "ended the process, exit code -9"
    assert INPUTS - 1 <= sum(outcome.counts.values()) <= INPUTS
