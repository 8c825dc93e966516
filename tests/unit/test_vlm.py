"""The vision-language captioner against transformers' own `generate`, on small random models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from raycap.config import GenerationConfig, ModelConfig, SamplingConfig
from raycap.models.base import AdjustableCaptioner
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.models.vlm import VlmCaptioner
from tests import tiny_blip
from tests.tiny_vlm import ENDS, EOS, FAMILIES, random_images, save_vlm

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


@pytest.fixture(scope="module", params=list(FAMILIES))
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
        # BLIP-2's language model has settings of its own, which are not saved.
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


def test_a_saved_captioner_captions_alike(
    family: str, load: Load, pixels: UInt8[np.ndarray, "b h w 3"], tmp_path: Path
) -> None:
    generation = GenerationConfig(prompt=PROMPTS[family], max_new_tokens=6)
    captioner = load(generation)
    captioner.save(tmp_path)
    source = find_model(str(tmp_path))
    assert source.kind == "vlm"
    again = load_captioner(source, FP32, generation)
    assert again.target == source.target == captioner.target
    assert again.caption(pixels) == captioner.caption(pixels)


def test_settings_can_be_varied(
    family: str, load: Load, pixels: UInt8[np.ndarray, "b h w 3"]
) -> None:
    short = GenerationConfig(prompt=PROMPTS[family], num_beams=1, max_new_tokens=2)
    longer = short.model_copy(update={"min_new_tokens": 6, "max_new_tokens": 6})
    captioner = load(short)
    assert isinstance(captioner, AdjustableCaptioner)
    assert captioner.with_generation(longer).caption(pixels) == load(longer).caption(pixels)
    assert captioner.count_tokens(["a red dog", "a"]) == [3, 1]
