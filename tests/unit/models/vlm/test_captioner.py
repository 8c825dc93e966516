"""The vision-language captioner against transformers' own `generate`, on small random models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.errors import ModelError
from raycap.models.base import AdjustableCaptioner, Question
from raycap.models.load import copy_model, load_captioner
from raycap.models.sources import find_model
from raycap.models.vlm.captioner import INSTRUCTION, TASK, VlmCaptioner
from raycap.models.vlm.kind import ANY_SIZE_PX, check_vlm_folder
from tests.support import tiny_blip
from tests.support.tiny_vlm import ENDS, EOS, random_images, save_vlm

_one_thread = tiny_blip.one_thread

FP32 = ModelConfig(precision="fp32")
# What each family is asked, and how its processor is given it by hand.
PROMPTS = {
    "blip-2": "a picture of",
    "florence2": "<CAPTION>",
    "idefics3": "What does this image describe ?",
    "llava": "User : <image> Describe Assistant :",
    "qwen2_vl": "Describe this picture",
}
NUM_IMAGES = 4
Load = Callable[[GenerationConfig], VlmCaptioner]


@pytest.fixture(scope="module", params=list(PROMPTS))
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vlm(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def pixels(folder: Path) -> UInt8[np.ndarray, "b h w 3"]:
    return random_images(NUM_IMAGES, find_model(str(folder)).target.width_px)


@pytest.fixture
def load(folder: Path) -> Load:
    def load_with(generation: GenerationConfig) -> VlmCaptioner:
        captioner = load_captioner(find_model(str(folder)), FP32, generation)
        assert isinstance(captioner, VlmCaptioner)
        return captioner

    return load_with


class Reference:
    """A model used as transformers' pages show it, image by image."""

    def __init__(self, folder: Path) -> None:
        load_model: Any = AutoModelForImageTextToText.from_pretrained
        load_processor: Any = AutoProcessor.from_pretrained
        self.model = load_model(folder).eval()
        self.processor = load_processor(folder)
        settings = self.model.generation_config
        settings.num_beams, settings.no_repeat_ngram_size = None, None
        settings.forced_eos_token_id = None
        # BLIP-2's language model has its own settings, which are not saved.
        is_blip2 = self.model.config.model_type == "blip-2"
        self.ends = {EOS} if is_blip2 else set(ENDS)

    def inputs(self, image: UInt8[np.ndarray, "h w 3"], prompt: str) -> Any:
        picture = Image.fromarray(image)
        if self.processor.chat_template is None:
            return self.processor(images=picture, text=prompt, return_tensors="pt")
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return self.processor(images=picture, text=text, return_tensors="pt")

    def tokens(self, inputs: Any, **settings: Any) -> list[int]:
        """The tokens that `generate` adds, up to the end token."""
        (sequence,) = self.model.generate(**inputs, **settings)
        start = 1 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        found: list[int] = sequence[start:].tolist()
        ended = [at for at, token in enumerate(found) if token in self.ends]
        return found[: ended[0] + 1] if ended else found

    def logprob(self, inputs: Any, tokens: list[int]) -> float:
        """The mean log-probability of tokens by one plain forward pass over all of them."""
        written = torch.tensor([tokens])
        with torch.no_grad():
            if self.model.config.is_encoder_decoder:
                start = torch.tensor([[self.model.generation_config.decoder_start_token_id]])
                before = torch.cat((start, written[:, :-1]), 1)
                logits = self.model(**inputs, decoder_input_ids=before).logits
            else:
                logits = self.model(**self._continued(inputs, written)).logits
        last = logits[0, -len(tokens) :].log_softmax(-1)
        steps = last.gather(1, written.T)[:, 0]
        # Florence-2's first token is forced.
        return float((steps[1:] if self.model.config.is_encoder_decoder else steps).mean())

    @staticmethod
    def _continued(inputs: Any, written: Any) -> dict[str, Any]:
        """Append all tokens but the last to the input, which then predicts each of them."""
        read = written[:, :-1]
        longer = dict(inputs)
        for name, added in (
            ("input_ids", read),
            ("attention_mask", torch.ones_like(read)),
            ("mm_token_type_ids", torch.zeros_like(read)),
        ):
            if name in longer:
                longer[name] = torch.cat((longer[name], added), 1)
        return longer

    def text(self, tokens: list[int]) -> str:
        return str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


SEARCHES = {
    "greedy": GenerationConfig(num_beams=1, max_new_tokens=8),
    "beams": GenerationConfig(max_new_tokens=8),
    "bounded": GenerationConfig(num_beams=4, min_new_tokens=4, max_new_tokens=6, length_penalty=2),
    "penalised": GenerationConfig(
        num_beams=2, repetition_penalty=1.6, no_repeat_ngram_size=2, max_new_tokens=10
    ),
}


@pytest.mark.parametrize("generation", SEARCHES.values(), ids=SEARCHES)
def test_captions_and_logprobs_equal_the_reference(
    generation: GenerationConfig,
    family: str,
    load: Load,
    reference: Reference,
    pixels: UInt8[np.ndarray, "b h w 3"],
) -> None:
    prompt = PROMPTS[family]
    captions = load(generation.model_copy(update={"prompt": prompt})).caption(pixels)
    given = generation.model_dump(exclude={"prompt", "num_captions", "sampling"})
    if generation.num_beams == 1:
        del given["length_penalty"]
    texts = []
    for image, caption in zip(pixels, captions, strict=True):
        inputs = reference.inputs(image, prompt)
        tokens = reference.tokens(inputs, **given)
        texts.append(reference.text(tokens))
        assert caption.text == texts[-1]
        assert caption.logprob == pytest.approx(reference.logprob(inputs, tokens), abs=1e-4)
    assert len(set(texts)) > 1, "the model must tell images apart for this test to mean much"


def test_a_caption_does_not_depend_on_its_batch(
    family: str, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    captioner = load(GenerationConfig(prompt=PROMPTS[family], max_new_tokens=8))
    whole = captioner.caption(pixels)
    for image, caption in zip(pixels, whole, strict=True):
        (alone,) = captioner.caption(image[None])
        assert alone.text == caption.text
        assert alone.logprob == pytest.approx(caption.logprob, abs=1e-4)
    assert captioner.caption(pixels[:0]) == []


def test_several_captions_come_best_first(
    family: str, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    settings = {"prompt": PROMPTS[family], "num_captions": 3, "max_new_tokens": 8}
    beams = load(GenerationConfig(num_beams=3, **settings))
    (best,) = beams.caption(pixels[:1])
    texts = [best.text, *(other.text for other in best.alternatives)]
    assert len(texts) == 3
    assert (
        load(GenerationConfig(prompt=PROMPTS[family], max_new_tokens=8)).caption(pixels[:1])[0].text
        == texts[0]
    )
    sampling = SamplingConfig(enabled=True, seed=4)
    drawn = load(GenerationConfig(num_beams=1, sampling=sampling, **settings))
    first, second = drawn.caption(pixels[:2]), drawn.caption(pixels[1::-1])
    assert first == second[::-1], "draws hang on the image alone"
    scores = [first[0].logprob, *(other.logprob for other in first[0].alternatives)]
    assert scores == sorted(scores, reverse=True)
    assert len({first[0].text, *(other.text for other in first[0].alternatives)}) > 1


def test_settings_can_be_varied(
    family: str, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    short = GenerationConfig(prompt=PROMPTS[family], num_beams=1, max_new_tokens=2)
    longer = short.model_copy(update={"min_new_tokens": 6, "max_new_tokens": 6})
    captioner = load(short)
    assert isinstance(captioner, AdjustableCaptioner)
    assert captioner.with_generation(longer).caption(pixels) == load(longer).caption(pixels)
    assert captioner.count_tokens(["a red dog", "a"]) == [3, 1]


# Prompts, folders, what is refused


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two families once more, for tests that need not run with all."""
    parent = tmp_path_factory.mktemp("families")
    return {name: save_vlm(name, parent / name) for name in ("florence2", "idefics3", "llava")}


def captioner_of(folder: Path, prompt: str = "") -> VlmCaptioner:
    generation = GenerationConfig(prompt=prompt, num_beams=1, max_new_tokens=4)
    captioner = load_captioner(find_model(str(folder)), FP32, generation)
    assert isinstance(captioner, VlmCaptioner)
    return captioner


@pytest.mark.parametrize(("name", "asked"), [("idefics3", INSTRUCTION), ("florence2", TASK)])
def test_without_a_prompt_a_caption_is_asked_for(
    name: str, asked: str, folders: dict[str, Path]
) -> None:
    alone = captioner_of(folders[name])
    images = random_images(2, alone.target.width_px)
    assert alone.caption(images) == captioner_of(folders[name], asked).caption(images)
    other = "Locate dog" if name == "idefics3" else "<DETAILED_CAPTION>"
    assert alone.caption(images) != captioner_of(folders[name], other).caption(images)


def test_a_model_that_needs_a_prompt_says_so(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="<image>"):
        captioner_of(folders["llava"])
    with pytest.raises(ModelError, match="Describe"):
        captioner_of(folders["llava"], "Describe")
    with pytest.raises(ModelError, match="Task token <CAPTION>"):
        captioner_of(folders["florence2"], "<CAPTION> please")


def test_the_size_of_images_is_the_processors(folders: dict[str, Path]) -> None:
    sizes = {name: find_model(str(folder)).target for name, folder in folders.items()}
    assert {name: target.width_px for name, target in sizes.items()} == {
        "florence2": 64,  # a fixed height and width
        "idefics3": 56,  # a longest edge
        "llava": 28,  # a crop
    }
    assert sizes["idefics3"].resample == "lanczos"


@pytest.mark.parametrize(
    ("settings", "side_px"),
    [
        ({"size": {"longest_edge": 2048}}, ANY_SIZE_PX),
        ({"size": {"longest_edge": 364, "height": None}}, 364),
        ({"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}, ANY_SIZE_PX),
        ({"size": {"shortest_edge": 336}, "image_grid_pinpoints": [[336, 672]]}, ANY_SIZE_PX),
        ({"min_pixels": 3136, "max_pixels": 12_845_056}, ANY_SIZE_PX),
        ({"size": 224}, 224),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, 224),
    ],
)
def test_sizes_as_processors_write_them(
    settings: dict[str, Any], side_px: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(folders["llava"], tmp_path / "copy")
    edit(copy / "processor_config.json", lambda config: config | {"image_processor": settings})
    target = check_vlm_folder(copy)
    assert (target.width_px, target.height_px, target.resample) == (side_px, side_px, "bicubic")


def test_a_size_that_is_none_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["llava"], tmp_path / "copy")
    broken = {"size": {"height": 0, "width": 3}}
    edit(copy / "processor_config.json", lambda config: config | {"image_processor": broken})
    with pytest.raises(ModelError) as caught:
        find_model(str(copy))
    assert caught.value.uri == str(copy / "processor_config.json")


def test_the_chat_template_and_the_special_tokens_are_part_of_the_digest(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    before = find_model(str(folders["idefics3"])).digest
    for number, name in enumerate(("chat_template.jinja", "generation_config.json")):
        copy = shutil.copytree(folders["idefics3"], tmp_path / str(number))
        assert find_model(str(copy)).digest == before
        (copy / name).write_text((copy / name).read_text() + " ")
        assert find_model(str(copy)).digest != before


def test_code_of_a_folder_is_never_run(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders["idefics3"], tmp_path / "copy")
    mark = tmp_path / "ran"
    (copy / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    code = {
        "auto_map": {
            "AutoConfig": "own.Config",
            "AutoModelForImageTextToText": "own.Model",
            "AutoProcessor": "own.Processor",
            "AutoImageProcessor": "own.ImageProcessor",
            "AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"],
        }
    }
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        edit(copy / name, lambda config: config | code)
    captioner_of(copy)
    assert not mark.exists()
    edit(copy / "config.json", lambda config: config | {"model_type": "own"})
    with pytest.raises(ModelError, match="'own'"):
        find_model(str(copy))
    assert not mark.exists()


def test_incomplete_weights_and_foreign_arithmetic_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    source = find_model(str(folders["llava"]))
    for setting, model in (
        ("model.precision", ModelConfig(precision="int8")),
        ("model.compile", ModelConfig(compile=True)),
    ):
        with pytest.raises(ModelError, match=r"\bvlm\b") as caught:
            load_captioner(source, model, GenerationConfig())
        assert caught.value.setting == setting
    copy = shutil.copytree(folders["llava"], tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights.pop(max(weights))
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"\b1 tensors") as caught:
        captioner_of(copy, "User : <image>")
    assert caught.value.uri == str(copy)


def test_a_copy_with_other_settings_keeps_its_special_tokens(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    source = find_model(str(folders["idefics3"]))
    chosen = GenerationConfig(num_beams=1, min_new_tokens=3, max_new_tokens=5)
    copy_model(source, tmp_path / "copy", chosen, {})
    copied = find_model(str(tmp_path / "copy"))
    assert (copied.kind, copied.digest, copied.generation) == ("vlm", source.digest, chosen)
    images = random_images(2, source.target.width_px)
    first = load_captioner(source, FP32, chosen).caption(images)
    assert load_captioner(copied, FP32, chosen).caption(images) == first


def edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def test_questions_of_any_length_are_answered_as_each_alone(
    family: str, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    prompt = PROMPTS[family]
    captioner = load(GenerationConfig(num_beams=1, max_new_tokens=5, prompt=prompt))
    longer = prompt.replace("escribe", "escribe this image and this", 1)
    # Florence-2 takes its tasks only.
    texts = [prompt] * 4 if family == "florence2" else [f"{prompt} this", prompt, longer, prompt]
    questions = [[Question(text=text)] for text in texts]
    found = captioner.answer(pixels, questions)
    for place, asked in enumerate(questions):
        ((alone,),) = captioner.answer(pixels[place : place + 1], [asked])
        (one,) = found[place]
        assert one.text == alone.text
        assert one.logprob == pytest.approx(alone.logprob, abs=1e-4)
