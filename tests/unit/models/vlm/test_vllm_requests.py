"""What vLLM is asked, what is read of its answers, and what is refused; without vLLM itself."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raycap
from raycap.answers.typed import AnswerType
from raycap.config import CalibrateConfig, CaptionConfig, GenerationConfig, ModelConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes
from raycap.errors import ConfigError, ModelError, RaycapError
from raycap.experiments.calibration.run import calibrate
from raycap.images.decoding import Target
from raycap.images.grids import TileGrid
from raycap.models.base import image_seed
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.models.vlm.captioner import load_processor
from raycap.models.vlm.vllm_requests import (
    engine_args,
    prompt_text,
    read_caption,
    request,
    sampling_params,
    structured_outputs,
)
from raycap.preflights.run import preflight
from tests.support.tiny_vlm import IMAGE, random_images, save_vlm

PROMPTS = {
    "idefics3": "",
    "llava": "User : <image> Describe this picture Assistant :",
    "qwen2_vl": "Describe this picture",
}
GREEDY = GenerationConfig(num_beams=1)
TARGET = Target(width_px=28, height_px=28)


@pytest.mark.parametrize("family", PROMPTS)
def test_the_prompt_is_the_one_that_the_captioner_reads(family: str, tmp_path: Path) -> None:
    folder = save_vlm(family, tmp_path)
    source = find_model(str(folder))
    generation = GenerationConfig(num_beams=1, prompt=PROMPTS[family])
    captioner: Any = load_captioner(source, ModelConfig(), generation)
    images = random_images(1, source.target.width_px)
    text = prompt_text(folder, generation.prompt)
    read = load_processor(folder)(text=[text], images=[[images[0]]], return_tensors="pt")
    assert (
        read["input_ids"].tolist()
        == captioner._inputs(images, [captioner._prompt] * len(images))["input_ids"].tolist()
    )


def test_a_model_that_has_nothing_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        prompt_text(save_vlm("blip-2", tmp_path), "")
    assert caught.value.setting == "generation.prompt"


def test_sampling_is_by_the_settings_and_the_images_own_seed(tmp_path: Path) -> None:
    folder = save_vlm("llava", tmp_path)
    pixels, other = random_images(2, 28)
    greedy = sampling_params(folder, GREEDY)
    assert (greedy["temperature"], greedy["max_tokens"], greedy["logprobs"]) == (0.0, 20, 0)
    assert greedy["logit_bias"][IMAGE] == -100.0  # the folder suppresses it
    assert "seed" not in request(pixels, "a", greedy, GREEDY)["sampling_params"]
    drawn = validate_config(
        GenerationConfig,
        {"num_beams": 1, "sampling": {"enabled": True, "temperature": 0.7, "top_k": 5, "seed": 3}},
    )
    params = sampling_params(folder, drawn)
    assert (params["temperature"], params["top_k"], params["top_p"]) == (0.7, 5, 1.0)
    asked = request(pixels, "a", params, drawn)
    assert asked["sampling_params"]["seed"] == image_seed(pixels, 3)
    assert "seed" not in params  # each image has its own
    assert image_seed(pixels, 3) not in (image_seed(other, 3), image_seed(pixels, 4))
    assert np.array_equal(np.asarray(asked["multimodal_data"]["image"]), pixels)


def test_an_answer_is_held_to_the_schema_of_its_prompt() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    found = structured_outputs(json.dumps(schema))["structured_outputs"]
    assert json.loads(found["json"]) == AnswerType(schema).enforced()
    assert structured_outputs(None) == {}


def test_the_engine_gets_the_users_arguments_and_those_that_are_raycaps() -> None:
    model = ModelConfig(precision="bf16", backend="vllm", vllm_args={"max_model_len": 4096})
    args = engine_args(model, 2.0, TARGET)
    assert (args["max_model_len"], args["dtype"], args["tensor_parallel_size"]) == (
        4096,
        "bfloat16",
        2,
    )
    assert (args["load_format"], args["trust_remote_code"]) == ("safetensors", False)
    assert engine_args(model, 0.5, TARGET)["tensor_parallel_size"] == 1


def test_tiles_are_cut_by_the_engine_as_by_the_captioner() -> None:
    tiled = replace(TARGET, grid=TileGrid(tile_px=512, longest_px=1024))
    model = ModelConfig(backend="vllm", vllm_args={"max_model_len": 4096})
    size = {"size": {"longest_edge": 1024}}
    assert engine_args(model, 1.0, tiled)["mm_processor_kwargs"] == size
    assert "mm_processor_kwargs" not in engine_args(model, 1.0, TARGET)
    own = model.model_copy(update={"vllm_args": {"mm_processor_kwargs": {"other": 1}}})
    assert engine_args(own, 1.0, tiled)["mm_processor_kwargs"] == {"other": 1} | size


def test_an_answer_is_read_with_the_mean_of_its_tokens() -> None:
    steps = [{7: {"logprob": -1.0}}, {2: {"logprob": -0.5}, 9: {"logprob": -0.4}}]
    answer = {"generated_text": " a\n dog ", "generated_tokens": [7, 2], "logprobs": steps}
    caption = read_caption(answer, 20)
    assert (caption.text, caption.logprob) == ("a dog", -0.75)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "beams": ({"generation": {"num_beams": 3}}, "generation.num_beams"),
    "several": (
        {"generation": {"num_beams": 1, "num_captions": 2, "sampling": {"enabled": True}}},
        "generation.num_captions",
    ),
    "repeats": (
        {"generation": {"num_beams": 1, "no_repeat_ngram_size": 2}},
        "generation.no_repeat_ngram_size",
    ),
    "own": ({"model": {"vllm_args": {"dtype": "half"}}}, "model.vllm_args.dtype"),
    "code": (
        {"model": {"vllm_args": {"trust_remote_code": True}}},
        "model.vllm_args.trust_remote_code",
    ),
    "kind": ({"model": {"name": "demo"}}, "model.backend"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_vllm_cannot_do_is_refused_before_anything_starts(case: str, tmp_path: Path) -> None:
    sections, setting = REFUSALS[case]
    with pytest.raises(RaycapError) as caught:
        caption_scenes(tmp_path, sections)
    assert caught.value.setting == setting
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'raycap\[vllm\]'") as caught:
        caption_scenes(tmp_path, {})
    assert caught.value.setting == "model.backend"


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_the_second_model_of_a_cascade_is_checked_too(tmp_path: Path) -> None:
    model = str(save_vlm("llava", tmp_path / "model"))
    second = {"model": model, "below": -1.0, "backend": "vllm"}
    with pytest.raises(ModelError) as caught:
        caption_scenes(tmp_path, {"model": {"name": "stub"}, "cascade": second})
    assert caught.value.setting == "model.backend"


def caption_scenes(folder: Path, sections: dict[str, Any]) -> None:
    write_scenes(folder / "scenes", 1, seed=1)
    model = {"name": str(folder / "model"), "backend": "vllm"}
    if "cascade" in sections:
        model = {}
    elif sections.get("model", {}).get("name") is None:
        save_vlm("llava", folder / "model")
    settings = {
        "generation": {"num_beams": 1},
        **sections,
        "model": {**model, **sections.get("model", {})},
    }
    raycap.caption(
        folder / "scenes", folder / "out", config=validate_config(CaptionConfig, settings)
    )


def test_preflight_and_calibration_refuse_it(tmp_path: Path) -> None:
    model = {"name": str(save_vlm("llava", tmp_path / "model")), "backend": "vllm"}
    write_scenes(tmp_path / "scenes", 1, seed=1)
    ahead = validate_config(CaptionConfig, {"model": model})
    with pytest.raises(ConfigError, match="--preflight") as caught:
        preflight(tmp_path / "scenes", tmp_path / "out", 1, config=ahead)
    assert caught.value.setting == "model.backend"
    settings = validate_config(CalibrateConfig, {"model": model})
    with pytest.raises(ConfigError, match="calibration") as caught:
        calibrate(model["name"], tmp_path / "dataset", tmp_path / "out", config=settings)
    assert caught.value.setting == "model.backend"


def test_arguments_go_with_the_backend() -> None:
    with pytest.raises(ConfigError, match=r"vllm_args .*backend=vllm"):
        validate_config(ModelConfig, {"vllm_args": {"max_model_len": 8}})


def test_a_runs_fingerprint_knows_what_decides_captions_and_not_how_much_room_there_is() -> None:
    assert "backend" not in ModelConfig().arithmetic()  # runs of older versions go on
    plain = ModelConfig(backend="vllm").arithmetic()
    roomy = ModelConfig(backend="vllm", vllm_args={"gpu_memory_utilization": 0.5})
    assert roomy.arithmetic() == plain
    assert plain["backend"] == "vllm"
    quantized = ModelConfig(backend="vllm", vllm_args={"quantization": "fp8"})
    assert quantized.arithmetic() != plain
