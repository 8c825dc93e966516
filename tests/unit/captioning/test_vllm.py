"""Rows on their way into vLLM's stage and out of it; the stage itself needs vLLM."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.context import Context
from raycap.captioning.loading import RunSpec
from raycap.captioning.prompts import prompts_of
from raycap.captioning.vllm import _Answers, _per_prompt, _Requests, _to_answered
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.models.base import BatchRange
from raycap.models.sources import find_model
from raycap.models.vlm.captioner import INSTRUCTION
from tests.support.tiny_vlm import random_images, save_vlm


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    model = find_model(str(save_vlm("qwen2_vl", tmp_path / "model")))
    config = validate_config(CaptionConfig, {"generation": {"num_beams": 1}})
    batches = BatchRange.fixed(32)
    return RunSpec(
        output=str(tmp_path / "out"), config=config, model=model, batches=batches, torch_threads=1
    )


def loaded(**columns: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(schema.LOADED.names)
    place = {schema.PART: 0, schema.ROW: 3, schema.NUM_ROWS: 8, schema.PARTIAL: False}
    image = {schema.IMAGE_ID: "a.jpg", schema.URI: "/a.jpg", schema.STATUS: schema.STATUS_OK}
    counts = {schema.NUM_BYTES: 10, schema.ATTEMPTS: 1, schema.ALTERNATIVES: []}
    asked = {schema.PROMPT: 0, schema.IS_FIRST: True}
    return {**row, **place, **image, **counts, **asked, **columns}


def answer(logprob: float) -> dict[str, Any]:
    tokens = {"generated_tokens": [5], "logprobs": [{5: {"logprob": logprob}}]}
    return {"generated_text": "a dog", **tokens}


def test_an_image_goes_in_without_its_bytes_and_comes_out_captioned(spec: RunSpec) -> None:
    pixels = random_images(1, 84)[0, :56]
    size = {"input_width_px": 84, "input_height_px": 56}
    row = loaded(pixels=pixels.tobytes(), width_px=40, height_px=30, **size)
    row.update(_Requests(spec)(row))
    assert np.array_equal(np.asarray(row["multimodal_data"]["image"]), pixels)
    assert schema.PIXELS not in row
    assert schema.MODEL not in row  # Ray would look for an adapter of that name
    found = {**_Answers(spec)({**row, **answer(-0.5)}), "__inference_error__": ""}
    (answered,) = _to_answered(pa.Table.from_pylist([found])).to_pylist()
    assert answered[schema.CAPTION] == "a dog"
    assert (answered[schema.NUM_WORDS], answered[schema.LOGPROB]) == (2, -0.5)
    assert (answered[schema.ROW], answered[schema.WIDTH_PX]) == (3, 40)
    assert answered[schema.MODEL] == spec.model.name


def test_an_image_that_failed_to_load_passes_with_its_own_code(spec: RunSpec) -> None:
    row = loaded(status=schema.STATUS_FAILED, error_code="empty", error_message="0 bytes")
    row.update(_Requests(spec)(row))
    assert row["__inference_error__"]
    (answered,) = _to_answered(pa.Table.from_pylist([row])).to_pylist()
    assert (answered[schema.STATUS], answered[schema.ERROR_CODE]) == ("failed", "empty")
    assert answered[schema.ERROR_MESSAGE] == "0 bytes"


def test_an_image_that_the_engine_refused_is_a_failed_row() -> None:
    row = loaded() | {"__inference_error__": "ValueError:\n too long", "prompt": "a"}
    (answered,) = _to_answered(pa.Table.from_pylist([row])).to_pylist()
    assert (answered[schema.STATUS], answered[schema.ERROR_CODE]) == ("failed", "model_rejected")
    assert answered[schema.ERROR_MESSAGE] == "ValueError: too long"
    assert answered[schema.CAPTION] is None


def test_a_score_that_is_no_number_makes_a_failed_row(spec: RunSpec) -> None:
    found = _Answers(spec)({**loaded(), **answer(float("nan"))})
    assert (found[schema.STATUS], found[schema.ERROR_CODE]) == ("failed", "model_rejected")
    assert found[schema.CAPTION] is None


def test_a_filled_in_prompt_takes_the_place_of_the_constant_one(spec: RunSpec) -> None:
    source = {"context": "columns"}
    config = validate_config(
        CaptionConfig,
        {"generation": {"num_beams": 1, "prompt": "See {tags} ."}, "source": source},
    )
    prompts = prompts_of(config)
    filled = replace(spec, config=config, prompts=prompts, context=Context.of(config))
    side = spec.model.target.width_px
    image: dict[str, Any] = {"input_width_px": side, "input_height_px": side}
    image["pixels"] = random_images(1, side).tobytes()
    asked = [
        _Requests(filled)(loaded(questions=[f"See {tags} ."], **image))["prompt"]
        for tags in ("owl", "{tags}")
    ]
    constant = _Requests(spec)(loaded(**image))["prompt"]
    assert [text.count(part) for text, part in zip(asked, ("owl", "{tags}"), strict=True)] == [1, 1]
    frame = constant.replace(INSTRUCTION, "{}")
    assert asked == [frame.format("See owl ."), frame.format("See {tags} .")]


def test_each_of_several_prompts_has_its_own_question() -> None:
    rows = [
        loaded(prompts=[0, 2], questions=["a", "c"]),
        loaded(prompts=None, questions=["x", "y", "z"]),
        loaded(prompts=[1], questions=None),
    ]
    found = _per_prompt(pa.Table.from_pylist(rows, schema=schema.LOADED), 3)
    assert found[schema.PROMPT].to_pylist() == [0, 2, 0, 1, 2, 1]
    assert found[schema.QUESTIONS].to_pylist() == [["a"], ["c"], ["x"], ["y"], ["z"], None]
