"""The caption stage isolates bad images and shrinks batches, for any model."""

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from jaxtyping import UInt8

from raycap import schema
from raycap.captioning.batching import BatchSize
from raycap.captioning.captioner import (
    Answering,
    Batch,
    CaptionActor,
    IsolatedCaptioner,
    caption_again,
    caption_all,
)
from raycap.captioning.loading import RunSpec
from raycap.config import CaptionConfig, ModelConfig
from raycap.config.loading import validate_config
from raycap.errors import ErrorCode, ImageError, ModelError
from raycap.images.decoding import Target
from raycap.images.isolation import ProcessDied
from raycap.models.base import BatchRange, Caption, Captioner, Question, Questions
from raycap.models.sources import find_model


class Picky:
    """A captioner that breaks on some images, and on batches that are too large."""

    target = Target(width_px=2, height_px=2)

    def __init__(self, *, bad: frozenset[int] = frozenset(), max_batch: int = 1000) -> None:
        self.bad = bad
        self.max_batch = max_batch
        self.batches: list[int] = []

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        self.batches.append(len(pixels))
        if len(pixels) > self.max_batch:
            raise MemoryError("no room")
        values = [int(image[0, 0, 0]) for image in pixels]
        if self.bad.intersection(values):
            raise ValueError("cannot look\nat this")
        return [Caption(text=f"number {value}", logprob=-1.0) for value in values]


def numbered(count: int) -> UInt8[np.ndarray, "b 2 2 3"]:
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3)
    ).copy()


def captioned(
    captioner: Captioner | IsolatedCaptioner,
    pixels: UInt8[np.ndarray, "b h w 3"],
    batch_size: BatchSize,
    num_lanes: int = 1,
) -> list[Caption | ImageError]:
    """Caption images with one caption each."""
    answers = captioner if isinstance(captioner, IsolatedCaptioner) else Answering(captioner)
    outcomes = caption_all(answers, Batch(pixels), batch_size, num_lanes)
    return [one if isinstance(one, ImageError) else one[0] for one in outcomes]


class Listening(Picky):
    """A captioner that breaks on some questions."""

    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        if any("bad" in question.text for asked in questions for question in asked):
            raise ValueError("cannot read this")
        captions = self.caption(pixels)
        return [[caption] * len(asked) for caption, asked in zip(captions, questions, strict=True)]


def test_what_is_filled_into_a_prompt_can_break_the_model_for_one_image_only() -> None:
    texts = ["good", "bad", "good", "bad"]
    questions = [[Question(text=text)] for text in texts]
    filled = Batch(numbered(4), questions, unfilled=[Question(text="{tags}")])
    outcomes = caption_all(Answering(Listening()), filled, of(4))
    assert [isinstance(one, ImageError) for one in outcomes] == [text == "bad" for text in texts]
    (last,) = outcomes[3:]
    assert isinstance(last, ImageError)
    assert last.code is ErrorCode.MODEL_REJECTED
    with pytest.raises(ModelError, match="cannot read this"):
        caption_all(Answering(Listening()), Batch(numbered(4), [questions[1]] * 4), of(4))


def of(size: int) -> BatchSize:
    return BatchSize(BatchRange.fixed(size))


def test_every_image_of_a_sound_batch_is_captioned_in_order() -> None:
    outcomes = captioned(Picky(), numbered(10), of(4))
    assert [o.text for o in outcomes if isinstance(o, Caption)] == [
        f"number {n}" for n in range(10)
    ]


@pytest.mark.parametrize("bad", [{0}, {9}, {3, 4}, {1, 5, 6, 9}, set(range(10))])
def test_images_that_break_the_model_become_rows_and_spare_their_neighbours(bad: set[int]) -> None:
    outcomes = captioned(Picky(bad=frozenset(bad)), numbered(10), of(10))
    rejected = {n for n, o in enumerate(outcomes) if isinstance(o, ImageError)}
    assert rejected == bad
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, Caption):
            assert outcome.text == f"number {number}"
        else:
            assert outcome.code is ErrorCode.MODEL_REJECTED
            assert outcome.message == "ValueError: cannot look at this"


def test_isolating_one_image_takes_few_calls() -> None:
    picky = Picky(bad=frozenset({17}))
    captioned(picky, numbered(64), of(64))
    assert len(picky.batches) <= 2 + 2 * 6 + 1


def test_a_model_that_fails_on_every_image_is_a_crash_not_a_million_bad_rows() -> None:
    with pytest.raises(ModelError, match="ValueError"):
        captioned(Picky(bad=frozenset(range(256))), numbered(4), of(4))


def test_a_batch_that_runs_out_of_memory_is_halved_and_stays_small() -> None:
    picky = Picky(max_batch=5)
    batch_size = of(32)
    outcomes = captioned(picky, numbered(40), batch_size)
    assert batch_size.current == 4
    assert len(outcomes) == 40
    assert picky.batches == [32, 16, 8, 4, *[4] * 9]


class Meeting(Picky):
    """Calls block until two run at the same time."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._barrier = threading.Barrier(2, timeout=30)

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        self._barrier.wait()
        return super().caption(pixels)


def test_two_batches_are_in_flight_and_come_back_in_order() -> None:
    outcomes = captioned(Meeting(), numbered(16), of(4), num_lanes=2)

    assert [o.text for o in outcomes if isinstance(o, Caption)] == [
        f"number {n}" for n in range(16)
    ]


def test_with_two_batches_in_flight_bad_images_are_isolated_and_batches_shrink() -> None:
    batch_size = of(8)
    picky = Picky(bad=frozenset({3, 12}), max_batch=4)

    outcomes = captioned(picky, numbered(40), batch_size, num_lanes=2)

    assert {n for n, o in enumerate(outcomes) if isinstance(o, ImageError)} == {3, 12}
    assert batch_size.current == 4
    assert len(outcomes) == 40


def test_the_batch_grows_over_the_images_of_a_run_and_none_is_captioned_twice() -> None:
    picky = Picky()
    batch_size = BatchSize(BatchRange(least=2, most=16))

    outcomes = captioned(picky, numbered(100), batch_size)

    assert [o.text for o in outcomes if isinstance(o, Caption)] == [
        f"number {n}" for n in range(100)
    ]
    assert sum(picky.batches) == 100
    assert picky.batches[:3] == [2, 2, 4]


def test_memory_that_runs_out_ends_the_growth() -> None:
    picky = Picky(max_batch=3)
    batch_size = BatchSize(BatchRange(least=2, most=64))

    captioned(picky, numbered(50), batch_size)

    assert batch_size.current == 2
    assert picky.batches.count(4) == 1


def test_no_memory_for_a_single_image_stops_with_what_to_do() -> None:
    with pytest.raises(ModelError) as caught:
        captioned(Picky(max_batch=0), numbered(4), of(4))
    assert caught.value.setting == "model.precision"


def spec_for(config: CaptionConfig, batch_size: int) -> RunSpec:
    return RunSpec(
        output="unused",
        config=config,
        model=find_model("stub"),
        batches=BatchRange.fixed(batch_size),
        torch_threads=1,
    )


def loaded_rows(spec: RunSpec, rows: list[int | None]) -> pa.Table:
    """Rows whose pixels are all of one value, or null for a failed image."""
    target = spec.model.target
    base = {
        schema.URI: "u",
        schema.PART: 0,
        schema.NUM_ROWS: len(rows),
        schema.PARTIAL: False,
        schema.NUM_BYTES: 1,
        schema.ATTEMPTS: 1,
        schema.ALTERNATIVES: [],
    }
    return pa.Table.from_pylist(
        [
            {
                **base,
                schema.IMAGE_ID: str(index),
                schema.ROW: index,
                schema.STATUS: "failed" if value is None else "ok",
                schema.ERROR_CODE: "empty" if value is None else None,
                schema.INPUT_WIDTH_PX: target.width_px,
                schema.INPUT_HEIGHT_PX: target.height_px,
                schema.PIXELS: None if value is None else bytes([value]) * target.num_bytes,
            }
            for index, value in enumerate(rows)
        ],
        schema=schema.LOADED,
    )


def test_failed_rows_pass_the_actor_untouched_and_the_others_get_their_own_caption() -> None:
    spec = spec_for(CaptionConfig(model=ModelConfig(name="stub")), 4)
    rows = [10, None, 200, 90, None, 30]
    actor = CaptionActor(spec)
    answered = actor(loaded_rows(spec, rows))
    alone = [actor(loaded_rows(spec, [value]))[schema.CAPTION][0].as_py() for value in rows]
    assert answered.schema == schema.ANSWERED
    assert answered[schema.CAPTION].to_pylist() == alone
    assert answered[schema.STATUS].to_pylist() == ["ok", "failed", "ok", "ok", "failed", "ok"]
    assert answered[schema.NUM_WORDS].to_pylist()[1] is None


def test_a_sliced_and_chunked_block_keeps_pixels_with_their_rows() -> None:
    spec = spec_for(CaptionConfig(model=ModelConfig(name="stub")), 64)
    table = loaded_rows(spec, [5, None, 120, 250, None, 60, 33])
    chunked = pa.concat_tables([table.slice(1, 2), table.slice(4, 3)])
    actor = CaptionActor(spec)
    whole = dict(zip(*(actor(table)[c].to_pylist() for c in ("image_id", "caption")), strict=True))
    pieces = actor(chunked)
    assert pieces[schema.IMAGE_ID].to_pylist() == ["1", "2", "4", "5", "6"]
    assert pieces[schema.CAPTION].to_pylist() == [whole[i] for i in ("1", "2", "4", "5", "6")]


def test_a_block_of_failed_rows_only_is_answered() -> None:
    spec = spec_for(CaptionConfig(model=ModelConfig(name="stub")), 64)
    answered = CaptionActor(spec)(loaded_rows(spec, [None, None]))
    assert answered[schema.STATUS].to_pylist() == ["failed", "failed"]


def test_scores_that_are_no_numbers_cost_their_image_alone() -> None:
    class Odd(Picky):
        def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
            return [
                replace(caption, logprob=math.nan) if caption.text == "number 3" else caption
                for caption in super().caption(pixels)
            ]

    outcomes = captioned(Odd(), numbered(8), of(8))
    (bad,) = [outcome for outcome in outcomes if isinstance(outcome, ImageError)]
    assert outcomes[3] is bad
    assert bad.message.startswith("FloatingPointError: ")


class Mortal(Picky):
    """A captioner whose process dies of some images, and of batches that are too large."""

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        try:
            return super().caption(pixels)
        except (ValueError, MemoryError) as error:
            raise ProcessDied("its process was ended by SIGKILL") from error


def test_images_that_end_the_process_are_found_and_batches_stay_as_large() -> None:
    batch_size = of(8)
    outcomes = captioned(Mortal(bad=frozenset({5})), numbered(16), batch_size)
    bad = outcomes[5]
    assert isinstance(bad, ImageError)
    assert "SIGKILL" in bad.message
    assert sum(isinstance(outcome, Caption) for outcome in outcomes) == 15
    assert batch_size.current == 8


def test_a_process_that_dies_of_a_batch_and_not_of_its_halves_was_short_of_memory() -> None:
    batch_size = of(8)
    picky = Mortal(max_batch=4)
    outcomes = captioned(picky, numbered(32), batch_size)
    assert all(isinstance(outcome, Caption) for outcome in outcomes)
    assert batch_size.current == 4
    assert picky.batches.count(8) == 1


def stub_spec(**model: Any) -> RunSpec:
    config = validate_config(
        CaptionConfig,
        {"model": {"name": "stub", **model}, "engine": {"hang_timeout_s": 5}},
    )
    return RunSpec(
        output="unused",
        config=config,
        model=find_model("stub"),
        batches=BatchRange.fixed(8),
        torch_threads=1,
    )


def magenta_at(place: int, count: int) -> UInt8[np.ndarray, "b h w 3"]:
    pixels = np.full((count, 32, 32, 3), 90, np.uint8)
    pixels[place] = (255, 0, 255)
    return pixels


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("die", "SIGKILL"),
        ("hang", "5 s"),
        ("raise", "ValueError: an image is pure magenta in the middle"),
    ],
)
def test_a_real_process_that_dies_or_hangs_costs_one_image(fault: str, told: str) -> None:
    isolated = IsolatedCaptioner(stub_spec(stub_fault=fault))
    try:
        outcomes = captioned(isolated, magenta_at(1, 2), of(2))
    finally:
        isolated.close()
    assert isinstance(outcomes[0], Caption)
    assert isinstance(outcomes[1], ImageError)
    assert outcomes[1].message.endswith(told)


def test_a_model_whose_process_never_starts_ends_the_run() -> None:
    spec = stub_spec()
    source = replace(spec.model, kind="blip", folder="/nowhere", name="/nowhere")
    isolated = IsolatedCaptioner(replace(spec, model=source))
    with pytest.raises(ModelError) as caught:
        captioned(isolated, magenta_at(1, 8), of(8))
    assert caught.value.uri == "/nowhere"
    isolated.close()


def test_a_child_process_gets_nothing_that_needs_ray() -> None:
    """Handles of actors can only be received where Ray is connected."""
    handle = threading.Lock()  # it cannot be pickled at all
    isolated = IsolatedCaptioner(replace(stub_spec(), queue=handle, addresses=handle))
    try:
        outcomes = captioned(isolated, magenta_at(0, 1), of(1))
    finally:
        isolated.close()
    assert isinstance(outcomes[0], Caption)


class Shortish(Picky):
    """A captioner that writes short answers, all cut off, and breaks on longer ones."""

    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        if any(question.max_new_tokens for (question,) in questions):
            raise IndexError("index out of range in self")
        cut_off = Caption(text="a dog. And a", logprob=-1.0, finish="length")
        return [[cut_off] for _ in pixels]


def test_an_image_keeps_its_answer_if_the_model_cannot_write_a_longer_one() -> None:
    again = caption_again(
        Answering(Shortish()),
        Batch(numbered(3), [[Question(text="", max_new_tokens=40)]] * 3),
        BatchSize(BatchRange.fixed(2)),
        1,
    )
    assert [one.code for one in again if isinstance(one, ImageError)] == ["model_rejected"] * 3
