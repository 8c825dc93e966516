"""Folders as many programs leave them: captioned as transformers captions, or refused in a line."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from jaxtyping import UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BlipForConditionalGeneration, BlipProcessor

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError, RaycapError
from raycap.models.adapters import ADAPTER_FILE, ADAPTER_WEIGHT_FILE, with_lora
from raycap.models.folders import WEIGHT_FILE, WEIGHT_INDEX_FILE, write_json
from raycap.models.load import copy_model, load_captioner
from raycap.models.sources import check_arithmetic, find_model
from tests.support import tiny_blip
from tests.support.tiny_blip import one_thread, random_pixels
from tests.support.tiny_vlm import random_images, save_vlm

__all__ = ["one_thread"]

Edit = Callable[[Path], object]
Tensors = dict[str, Tensor]

GREEDY = GenerationConfig(num_beams=1, max_new_tokens=8)
TIED = "text_decoder.cls.predictions.decoder.weight"
BIAS = "text_decoder.cls.predictions.decoder.bias"
OTHER_BIAS = "text_decoder.cls.predictions.bias"
EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"
POSITIONS = "vision_model.embeddings.position_embedding"


# Fixtures, which pytest looks for under their names.
whole = tiny_blip.whole
folder = tiny_blip.own_folder


def load(name: str, adapter: str | None = None) -> Any:
    """Go all the way from a name to a captioner."""
    model = ModelConfig(name=name, precision="fp32", adapter=adapter)
    source = find_model(name, adapter)
    check_arithmetic(source, model)
    return load_captioner(source, model, GREEDY)


def captions(name: str, adapter: str | None = None) -> list[str]:
    return [caption.text for caption in load(name, adapter).caption(random_pixels(4))]


def reference(folder: Path, network: Any = None) -> list[str]:
    """What transformers makes of the folder, or of a network with the folder's processor."""
    load_network: Any = BlipForConditionalGeneration.from_pretrained
    load_processor: Any = BlipProcessor.from_pretrained
    network = network or load_network(folder, dtype=torch.float32)
    processor = load_processor(folder)
    pixels: UInt8[np.ndarray, "b h w 3"] = random_pixels(4)
    inputs = processor(images=list(pixels), return_tensors="pt")
    found = network.eval().generate(**inputs, num_beams=1, max_new_tokens=8)
    return [processor.decode(tokens, skip_special_tokens=True).strip() for tokens in found]


# Edits


def settings(name: str, **changes: Any) -> Edit:
    """Change a JSON file; `a__b` is `b` within `a`."""

    def edit(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        for path, value in changes.items():
            *sections, last = path.split("__")
            section = content
            for step in sections:
                section = section[step]
            section[last] = value
        write_json(file, content)

    return edit


def without(*names: str) -> Edit:
    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return edit


def tensors(change: Callable[[Tensors], Tensors]) -> Edit:
    def edit(folder: Path) -> None:
        changed = change(load_file(folder / WEIGHT_FILE))
        held = {name: value.contiguous() for name, value in changed.items()}
        save_file(held, folder / WEIGHT_FILE, metadata={"format": "pt"})

    return edit


def renamed(prefix: str) -> Edit:
    return tensors(lambda held: {f"{prefix}{name}": value for name, value in held.items()})


def converted(dtype: torch.dtype) -> Edit:
    def change(held: Tensors) -> Tensors:
        return {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in held.items()
        }

    return tensors(change)


def sharded(folder: Path) -> None:
    held = load_file(folder / WEIGHT_FILE)
    places = {name: f"model-0000{1 + at % 3}-of-00003.safetensors" for at, name in enumerate(held)}
    for shard in set(places.values()):
        mine = {name: held[name] for name, place in places.items() if place == shard}
        save_file(mine, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    write_json(folder / WEIGHT_INDEX_FILE, index)
    (folder / WEIGHT_FILE).unlink()


def trainers(folder: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"\x80\x02.")
    write_json(folder / "trainer_state.json", {"global_step": 500})


def without_metadata(folder: Path) -> None:
    save_file(load_file(folder / WEIGHT_FILE), folder / WEIGHT_FILE)


def slow_tokenizer(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer.json").unlink()


def processor_only(folder: Path) -> None:
    image_processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    write_json(
        folder / "processor_config.json",
        {"processor_class": "BlipProcessor", "image_processor": image_processor},
    )


def both(first: Edit, second: Edit) -> Edit:
    def edit(folder: Path) -> None:
        first(folder)
        second(folder)

    return edit


def nothing(folder: Path) -> None:
    del folder


CAPTIONED: dict[str, Edit] = {
    "as it is": nothing,
    "sharded": sharded,
    "fp16": converted(torch.float16),
    "bf16": converted(torch.bfloat16),
    "fp16 by its config": settings("config.json", torch_dtype="float16"),
    "tied weights twice": tensors(lambda held: {**held, TIED: held[EMBEDDINGS].clone()}),
    "tied weights once": tensors(lambda held: {k: v for k, v in held.items() if k != TIED}),
    "only the output weights": tensors(
        lambda held: {
            **{name: value for name, value in held.items() if name != EMBEDDINGS},
            TIED: held[EMBEDDINGS],
        }
    ),
    "output weights of their own": tensors(
        lambda held: {**held, TIED: held[EMBEDDINGS].flip(1).contiguous()}
    ),
    "not tied": both(
        settings("config.json", tie_word_embeddings=False, text_config__tie_word_embeddings=False),
        tensors(
            lambda held: {
                **held,
                TIED: held[EMBEDDINGS].flip(1).contiguous(),
                BIAS: held[OTHER_BIAS].flip(0).contiguous(),
            }
        ),
    ),
    "named after the kind": renamed("blip."),
    "more than is needed": tensors(lambda held: {**held, "itm_head.weight": torch.ones(2, 2)}),
    "position ids kept": tensors(
        lambda held: {**held, "vision_model.embeddings.position_ids": torch.arange(5)[None]}
    ),
    "no metadata": without_metadata,
    "old transformers": settings(
        "config.json", transformers_version="4.26.0", torch_dtype="float32", use_cache=True
    ),
    "generation settings in the config": settings(
        "config.json", text_config__num_beams=5, text_config__max_length=3
    ),
    "no architectures": settings("config.json", architectures=None),
    "side as a number": settings("preprocessor_config.json", size=32),
    "old image processor": settings(
        "preprocessor_config.json",
        feature_extractor_type="BlipImageProcessor",
        image_processor_type="BlipImageProcessor",
    ),
    "whole processor": processor_only,
    "slow tokenizer": slow_tokenizer,
    "a trainer's checkpoint": trainers,
    "attention by name": settings("config.json", attn_implementation="eager"),
}


@pytest.mark.parametrize("edit", CAPTIONED.values(), ids=CAPTIONED)
def test_a_folder_is_captioned_as_transformers_captions_it(edit: Edit, folder: Path) -> None:
    edit(folder)
    expected = reference(folder)
    assert captions(str(folder)) == expected
    assert len(set(expected)) > 1


def outer(folder: Path) -> None:
    """Move the model down, as trainers and caches keep theirs."""
    inner = folder / "checkpoint-9"
    inner.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            file.rename(inner / file.name)
    shutil.copytree(inner, folder / "checkpoint-10")


def truncated(folder: Path) -> None:
    data = (folder / WEIGHT_FILE).read_bytes()
    (folder / WEIGHT_FILE).write_bytes(data[:-1000])


def moved(name: str) -> Edit:
    return lambda folder: (folder / WEIGHT_FILE).rename(folder / name)


def adapter_of_another_kind(folder: Path) -> None:
    without(WEIGHT_FILE, "config.json")(folder)
    write_json(folder / ADAPTER_FILE, {"peft_type": "PREFIX_TUNING"})


def other_format(folder: Path) -> None:
    without(WEIGHT_FILE, "config.json")(folder)
    (folder / "model.onnx").write_bytes(b"onnx")


REFUSED: dict[str, tuple[Edit, list[str]]] = {
    "DataParallel": (renamed("module."), ["'module.'"]),
    "torch.compile": (renamed("_orig_mod."), ["'_orig_mod.'"]),
    "retrieval": (
        settings("config.json", architectures=["BlipForImageTextRetrieval"]),
        ["BlipForImageTextRetrieval"],
    ),
    "no head": (settings("config.json", architectures=["BlipModel"]), ["BlipModel"]),
    "of another model": (renamed("text_encoder."), ["text_encoder."]),
    "quantised": (
        settings("config.json", quantization_config={"quant_method": "bitsandbytes"}),
        ["bitsandbytes"],
    ),
    "no tokenizer": (
        without("tokenizer.json", "vocab.txt"),
        ["tokenizer.json", "tokenizer_config.json"],
    ),
    "neither": (
        without("tokenizer.json", "vocab.txt", "preprocessor_config.json"),
        ["tokenizer.json", "preprocessor_config.json"],
    ),
    "larger images": (
        both(
            settings("config.json", vision_config__image_size=64),
            settings("preprocessor_config.json", size={"height": 64, "width": 64}),
        ),
        [POSITIONS, "1x5x32", "1x17x32"],
    ),
    "another vocabulary": (
        settings("config.json", text_config__vocab_size=999),
        ["word_embeddings.weight", "x32", "999x32"],
    ),
    "wider": (settings("config.json", text_config__hidden_size=48), ["32", "48"]),
    "more layers": (settings("config.json", text_config__num_hidden_layers=3), ["layer.2"]),
    "endless layers": (
        settings("config.json", text_config__num_hidden_layers=100_000_000),
        ["num_hidden_layers", "100,000,000"],
    ),
    "endless layers as text": (
        settings("config.json", vision_config__num_hidden_layers=1e30),
        ["num_hidden_layers"],
    ),
    "endless images": (
        settings("preprocessor_config.json", size={"height": 10**9, "width": 10**9}),
        ["1000000000"],
    ),
    "heads that do not fit": (
        settings("config.json", text_config__num_attention_heads=5),
        ["num_attention_heads=5"],
    ),
    "unknown activation": (settings("config.json", text_config__hidden_act="prelu"), ["'prelu'"]),
    "no text": (settings("config.json", text_config="base"), ["text_config"]),
    "not tied, tied weights once": (
        both(
            settings(
                "config.json", tie_word_embeddings=False, text_config__tie_word_embeddings=False
            ),
            tensors(lambda held: {k: v for k, v in held.items() if k not in (TIED, BIAS)}),
        ),
        ["2 tensors", BIAS],
    ),
    "patches of nothing": (settings("config.json", vision_config__patch_size=0), ["patch_size"]),
    "cut short": (truncated, [WEIGHT_FILE, " bytes"]),
    "a shard is missing": (
        both(sharded, without("model-00002-of-00003.safetensors")),
        ["model-00002-of-00003.safetensors"],
    ),
    "a variant": (moved("model.fp16.safetensors"), ["model.fp16.safetensors"]),
    "TensorFlow": (other_format, ["model.onnx"]),
    "one level up": (outer, ["checkpoint-10?"]),
    "another method": (adapter_of_another_kind, ["PREFIX_TUNING"]),
}


@pytest.mark.parametrize(("edit", "parts"), REFUSED.values(), ids=REFUSED)
def test_a_folder_is_refused_in_one_line(edit: Edit, parts: list[str], folder: Path) -> None:
    edit(folder)
    started = time.monotonic()
    with pytest.raises(RaycapError) as caught:
        load(str(folder))
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert [part for part in parts if part.lower() not in str(caught.value).lower()] == []


REFUSED_VLMS: dict[str, tuple[Edit, list[str]]] = {
    "DataParallel": (renamed("module."), ["'module.'"]),
    "quantised": (
        settings("config.json", quantization_config={"quant_method": "awq"}),
        ["awq"],
    ),
    "no processor": (
        without("processor_config.json", "preprocessor_config.json"),
        ["preprocessor_config.json"],
    ),
    "another vocabulary": (settings("config.json", text_config__vocab_size=999), ["999x32"]),
    "endless layers": (
        settings("config.json", vision_config__num_hidden_layers=100_000_000),
        ["num_hidden_layers", "100,000,000"],
    ),
    "cut short": (truncated, [WEIGHT_FILE, " bytes"]),
}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm("llava", tmp_path_factory.mktemp("llava"))


@pytest.mark.parametrize(("edit", "parts"), REFUSED_VLMS.values(), ids=REFUSED_VLMS)
def test_a_vision_language_model_is_refused_in_one_line(
    edit: Edit, parts: list[str], llava: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llava, folder)
    test_a_folder_is_refused_in_one_line(edit, parts, folder)


def test_the_base_of_a_fine_tuned_folder_is_named(folder: Path) -> None:
    without("tokenizer.json", "vocab.txt")(folder)
    settings("config.json", _name_or_path="org/base")(folder)
    with pytest.raises(ModelError, match="org/base"):
        find_model(str(folder))


# Adapters


def save_adapter(base: Path, folder: Path, *, named: str | None = None, **changes: Any) -> Any:
    """Save a random LoRA adapter; return the base with the adapter merged, as peft does it."""
    load_network: Any = BlipForConditionalGeneration.from_pretrained
    network = load_network(base)
    torch.manual_seed(9)
    plain: dict[str, Any] = {"r": 4, "lora_alpha": 64}
    config = peft.LoraConfig(target_modules=["query", "value", "qkv"], **{**plain, **changes})
    adapted = with_lora(network, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    adapted.save_pretrained(folder)
    settings(ADAPTER_FILE, base_model_name_or_path=named)(folder)
    return adapted.merge_and_unload()


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["post_layernorm"]}],
    ids=str,
)
def test_an_adapter_is_merged_as_peft_merges_it(
    changes: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    merged = save_adapter(whole, tmp_path / "lora", named=str(whole), **changes)
    expected = reference(whole, merged)
    assert expected != reference(whole)
    assert captions(str(whole), str(tmp_path / "lora")) == expected
    assert captions(str(tmp_path / "lora")) == expected


def test_an_adapter_is_part_of_a_models_identity(whole: Path, tmp_path: Path) -> None:
    save_adapter(whole, tmp_path / "lora", named=str(whole))
    plain, adapted = find_model(str(whole)), find_model(str(tmp_path / "lora"))
    assert adapted.adapter is not None
    assert "adapter" not in plain.identity()
    assert adapted.identity()["adapter"]["digest"] == adapted.adapter.digest
    assert (adapted.name, adapted.digest) == (str(whole), plain.digest)
    save_adapter(whole, tmp_path / "lora", named=str(whole), r=2)
    with pytest.raises(ModelError):  # changed since it was found
        load_captioner(adapted, ModelConfig(), GREEDY)
    with pytest.raises(ModelError):
        copy_model(adapted, tmp_path / "copy", GREEDY, {})


def test_an_adapter_of_a_vision_language_model_is_merged(tmp_path: Path) -> None:
    base = save_vlm("florence2", tmp_path / "base")
    network = load_vlm_for_training(base)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=256)
    adapted = with_lora(network, config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.5)
    adapted.save_pretrained(tmp_path / "lora")
    merged = tmp_path / "merged"
    shutil.copytree(base, merged)
    adapted.merge_and_unload().save_pretrained(merged)
    images = random_images(3, find_model(str(base)).target.width_px)
    texts = [
        [caption.text for caption in load(*names).caption(images)]
        for names in ((str(base),), (str(base), str(tmp_path / "lora")), (str(merged),))
    ]
    assert texts[0] != texts[1] == texts[2]


def load_vlm_for_training(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText  # noqa: PLC0415  slow to import

    loaded: Any = AutoModelForImageTextToText.from_pretrained(folder)
    return loaded


def wide(base: Path, folder: Path) -> None:
    """Save an adapter of a model with other layers."""
    save_adapter(base, folder, named=str(base))
    held = load_file(folder / ADAPTER_WEIGHT_FILE)
    changed = {
        name: torch.zeros(value.shape[0], 2 * value.shape[1]) for name, value in held.items()
    }
    save_file(changed, folder / ADAPTER_WEIGHT_FILE)


def elsewhere(base: Path, folder: Path) -> None:
    """Save an adapter of layers that the model lacks."""
    save_adapter(base, folder, named=str(base))
    held = load_file(folder / ADAPTER_WEIGHT_FILE)
    changed = {name.replace("layer.1", "layer.7"): value for name, value in held.items()}
    save_file(changed, folder / ADAPTER_WEIGHT_FILE)


def edited(edit: Edit, named: str | None = "base") -> Callable[[Path, Path], object]:
    def save(base: Path, folder: Path) -> None:
        save_adapter(base, folder, named=str(base) if named == "base" else named)
        edit(folder)

    return save


REFUSED_ADAPTERS: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    "no base": (edited(nothing, None), ["--model BASE", "model.adapter"]),
    "lost base": (edited(nothing, "/lost/base"), ["/lost/base", "model.adapter"]),
    "itself": (edited(settings(ADAPTER_FILE, peft_type="IA3")), ["IA3"]),
    "wide": (wide, ["shape"]),
    "other layers": (elsewhere, ["layer."]),
    "huge rank": (edited(settings(ADAPTER_FILE, r=10**9)), ["1000000000"]),
    "code by name": (
        edited(settings(ADAPTER_FILE, megatron_config={"a": 1}, megatron_core="os")),
        ["megatron_config"],
    ),
    "pickled": (
        edited(lambda folder: (folder / ADAPTER_WEIGHT_FILE).rename(folder / "adapter_model.bin")),
        ["adapter_model.bin"],
    ),
    "a kind without": (edited(nothing, "stub"), ["stub", "blip, vlm"]),
}


@pytest.mark.parametrize(("save", "parts"), REFUSED_ADAPTERS.values(), ids=REFUSED_ADAPTERS)
def test_an_adapter_is_refused_in_one_line(
    save: Callable[[Path, Path], object], parts: list[str], whole: Path, tmp_path: Path
) -> None:
    save(whole, tmp_path / "lora")
    with pytest.raises(ModelError) as caught:
        load(str(tmp_path / "lora"))
    assert "\n" not in str(caught.value)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_an_adapter_of_an_adapter_is_refused(whole: Path, tmp_path: Path) -> None:
    save_adapter(whole, tmp_path / "one", named=str(whole))
    save_adapter(whole, tmp_path / "two", named=str(tmp_path / "one"))
    with pytest.raises(ModelError):
        find_model(str(tmp_path / "two"))
    with pytest.raises(ModelError):
        find_model(str(tmp_path / "one"), str(tmp_path / "two"))
    with pytest.raises(ModelError):
        find_model(str(whole), str(whole))
