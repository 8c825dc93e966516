"""Compiled BLIP writes the captions of plain BLIP and of `generate`."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers import BlipForConditionalGeneration

from raycap.captioning.claim import caption_fingerprint
from raycap.captioning.run import caption
from raycap.config import CaptionConfig, GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import Caption, ModelSource
from raycap.models.blip.captioner import BlipCaptioner, load_network
from raycap.models.blip.compiled import (
    CompiledBlip,
    StaticDecodingState,
    Workspace,
    check_compiler,
    compile_fixed,
)
from raycap.models.decoding import decode
from raycap.models.decoding.state import Decoded
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from tests.support import tiny_blip
from tests.support.random_blip import (
    END,
    ours,
    random_decoder,
    random_images,
    random_search,
    random_start,
    seeded,
)
from tests.support.tiny_blip import FP32, sampling

pytestmark = pytest.mark.slow

_one_thread = tiny_blip.one_thread
folder = tiny_blip.folder
pixels = tiny_blip.pixels
unchecked = tiny_blip.unchecked

COMPILED = ModelConfig(precision="fp32", compile=True)
SEARCHES = {
    "greedy": GenerationConfig(num_beams=1),
    "beams": GenerationConfig(num_beams=3),
    "prompt": GenerationConfig(num_beams=3, prompt="a picture of", min_new_tokens=7),
    "greedy prompt": GenerationConfig(num_beams=1, prompt="a big dog", min_new_tokens=5),
    "several": GenerationConfig(num_beams=4, num_captions=3, no_repeat_ngram_size=2),
    "draws": sampling(num_captions=3, temperature=2.0),
    "one draw": sampling(temperature=2.0),
}
NUM_RANDOM = 8
Pixels = UInt8[np.ndarray, "b h w 3"]
Pair = Callable[[GenerationConfig], tuple[BlipCaptioner, BlipCaptioner]]


def num_graphs() -> int:
    """How often torch has compiled anything."""
    from torch._dynamo.utils import counters  # noqa: PLC0415  takes a second

    return int(counters["stats"]["unique_graphs"])


def check_alike(found: list[Caption], expected: list[Caption]) -> None:
    """The same captions; logprobs up to rounding."""
    for one, other in zip(found, expected, strict=True):
        pairs = zip((one, *one.alternatives), (other, *other.alternatives), strict=True)
        for mine, theirs in pairs:
            assert mine.text == theirs.text
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


@pytest.fixture
def pair(folder: Path) -> Pair:
    """Captioners of the same model: one with fixed shapes, traced by torch, and a plain one."""

    def make(generation: GenerationConfig) -> tuple[BlipCaptioner, BlipCaptioner]:
        plain = BlipCaptioner.from_pretrained(folder, FP32, generation)
        network, tokenizer = load_network(folder, torch.float32)  # its weights are not packed
        compiled = CompiledBlip(network, backend="eager")
        parts = (network, tokenizer, plain._preprocessing)
        return BlipCaptioner(*parts, generation, compiled), plain

    return make


def static(
    decoder: Any, workspace: Workspace, images: Tensor, start: Tensor, generation: GenerationConfig
) -> list[list[Decoded]]:
    with torch.inference_mode():
        state = StaticDecodingState(decoder, workspace, images)
        return decode(state, start.expand(len(images), -1), generation, END)


def check_decoded(found: list[list[Decoded]], expected: list[list[Decoded]]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert [one.tokens for one in mine] == [one.tokens for one in theirs]
        assert [one.logprob for one in mine] == pytest.approx([one.logprob for one in theirs])
        assert [one.score for one in mine] == pytest.approx([one.score for one in theirs])


@pytest.mark.parametrize("num_beams", [1, 2, 3, 5])
def test_fixed_shapes_find_what_growing_ones_do(num_beams: int) -> None:
    """In a workspace that is too large, used before by a batch that breaks and a longer one."""
    lengths = set()
    for seed in range(NUM_RANDOM):
        rng = random.Random(f"{seed} {num_beams} static")
        with seeded(seed):
            decoder = random_decoder(rng)
            images, start = random_images(rng, decoder), random_start(rng, decoder)
        generation = random_search(rng, num_beams)
        workspace = Workspace(decoder, len(images) + seed % 3, num_beams, 20 + seed % 2)
        longer = generation.model_copy(update={"min_new_tokens": 0, "max_new_tokens": 14})
        expected = ours(decoder, images, start, generation)
        static(decoder, workspace, torch.full_like(images, torch.nan), start, longer)
        static(decoder, workspace, images.flip(0), start, longer)
        found = static(decoder, workspace, images, start, generation)
        check_decoded(found, expected)
        fewer = images[: len(images) // 2 + 1]
        check_decoded(static(decoder, workspace, fewer, start, generation), expected[: len(fewer)])
        lengths |= {len(one.tokens) for captions in found for one in captions}
    assert len(lengths) > 2, "captions must end at different lengths for this test to mean much"


@pytest.mark.parametrize("num_captions", [1, 4])
def test_draws_are_the_same_from_the_same_seed(num_captions: int) -> None:
    for seed in range(NUM_RANDOM):
        rng = random.Random(seed)
        with seeded(seed):
            decoder = random_decoder(rng)
            images, start = random_images(rng, decoder), random_start(rng, decoder)
        draws = sampling(num_captions=num_captions, temperature=2.0)
        generation = draws.model_copy(update={"max_new_tokens": 9})
        with seeded(seed):
            expected = ours(decoder, images, start, generation)
        workspace = Workspace(decoder, 8, num_captions, 16)
        with seeded(seed):
            check_decoded(static(decoder, workspace, images, start, generation), expected)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("generation", SEARCHES.values(), ids=SEARCHES)
def test_captions_of_any_batch_size_are_the_plain_ones(
    generation: GenerationConfig, pair: Pair, pixels: Pixels
) -> None:
    compiled, plain = pair(generation)
    for num_images in (8, 5, 1, 3, 0):
        check_alike(compiled.caption(pixels[:num_images]), plain.caption(pixels[:num_images]))


@pytest.mark.usefixtures("unchecked")
def test_torch_compiles_once_for_each_power_of_two(pair: Pair, pixels: Pixels) -> None:
    torch._dynamo.reset()
    compiled, _ = pair(GenerationConfig(num_beams=3))
    before = num_graphs()
    for num_images in (8, 7, 6, 5, 8):
        compiled.caption(pixels[:num_images])
    assert num_graphs() - before == 2, "the encoder, and the step"
    for num_images in (4, 1, 3, 2, 7, 1):
        compiled.caption(pixels[:num_images])
    assert num_graphs() - before == 8
    longer = compiled.with_generation(GenerationConfig(num_beams=3, max_new_tokens=25))
    assert longer._compiled is compiled._compiled
    longer.caption(pixels)
    assert num_graphs() - before == 8, "lengths are rounded up"
    longer.with_generation(GenerationConfig(num_beams=1)).caption(pixels)
    assert num_graphs() - before == 9, "the step of one row an image"


@pytest.mark.usefixtures("unchecked")
def test_more_shapes_than_torch_allows_by_itself_are_compiled() -> None:
    torch._dynamo.reset()
    double = compile_fixed(torch.sin, torch.device("cpu"), backend="eager")
    for size in range(1, 20):
        assert len(double(torch.ones(size))) == size


@pytest.mark.usefixtures("unchecked")
def test_threads_may_share_a_captioner(pair: Pair, pixels: Pixels) -> None:
    compiled, plain = pair(GenerationConfig(num_beams=3))
    compiled.caption(pixels)
    parts = [pixels[:4], pixels[4:]]
    found: dict[int, list[list[Caption]]] = {}

    def work(index: int) -> None:
        found[index] = [compiled.caption(parts[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, part in enumerate(parts):
        for captions in found[index]:
            check_alike(captions, plain.caption(part))


@pytest.mark.usefixtures("unchecked")
def test_a_batch_that_fails_leaves_no_memory_behind_and_the_next_goes_well(
    pair: Pair, pixels: Pixels
) -> None:
    compiled, plain = pair(GenerationConfig(num_beams=3))
    assert compiled._compiled is not None
    compiled.caption(pixels)
    with (
        torch.inference_mode(),
        pytest.raises(MemoryError),
        compiled._compiled.read(compiled._normalise(pixels), 3, 20),
    ):
        raise MemoryError
    assert not compiled._compiled._workspaces
    check_alike(compiled.caption(pixels[:4]), plain.caption(pixels[:4]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore")  # of the compiler, about this machine
def test_really_compiled_captions_are_those_of_generate(folder: Path, pixels: Pixels) -> None:
    torch._dynamo.reset()
    load: Any = BlipForConditionalGeneration.from_pretrained
    reference = load(folder).eval()
    compiled = BlipCaptioner.from_pretrained(folder, COMPILED, GenerationConfig(num_beams=3))
    for num_beams in (3, 1):
        generation = GenerationConfig(num_beams=num_beams)
        plain = BlipCaptioner.from_pretrained(folder, FP32, generation)
        ours = compiled.with_generation(generation)
        for num_images in (4, 3):
            found = ours.caption(pixels[:num_images])
            check_alike(found, plain.caption(pixels[:num_images]))
            sequences = reference.generate(
                pixel_values=plain._normalise(pixels[:num_images]),
                num_beams=num_beams,
                max_new_tokens=20,
            )
            texts = [plain._tokenizer.decode(tokens) for tokens in sequences.tolist()]
            assert [caption.text for caption in found] == [text.strip() for text in texts]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore")
def test_a_missing_compiler_is_told_in_one_line(folder: Path) -> None:
    from torch._inductor import config  # noqa: PLC0415  takes seconds

    torch._dynamo.reset()
    settings: Any = config
    # Compiled code is cached by what it is; what was compiled before must not answer for it.
    absent = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with settings.patch(absent), pytest.raises(ModelError) as caught:
        BlipCaptioner.from_pretrained(folder, COMPILED, GenerationConfig())
    message = str(caught.value)
    assert caught.value.setting == "model.compile"
    assert "g++" in message
    assert "\n" not in message
    torch._dynamo.reset()
    check_compiler(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["stub", "cnn-lstm", "transformer", "hybrid"])
def test_other_kinds_are_refused_in_one_line(kind: str) -> None:
    source = ModelSource(
        kind=kind,
        name="mine",
        revision=None,
        folder="/",
        digest="",
        target=Target(width_px=64, height_px=64),
    )
    with pytest.raises(ModelError, match=kind) as caught:
        load_captioner(source, COMPILED, GenerationConfig())
    assert caught.value.setting == "model.compile"
    assert "\n" not in str(caught.value)


def test_a_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = CaptionConfig(model=ModelConfig(name="stub", compile=True))
    (tmp_path / "photos").mkdir()
    with pytest.raises(ModelError) as caught:
        caption(tmp_path / "photos", tmp_path / "captions", config=config)
    assert caught.value.setting == "model.compile"
    assert not list((tmp_path / "captions").glob("**/*.json"))


def test_it_is_off_by_itself(folder: Path) -> None:
    plain = BlipCaptioner.from_pretrained(folder, ModelConfig(), GenerationConfig())
    assert plain._compiled is None
    assert plain.with_generation(GenerationConfig(num_beams=1))._compiled is None


def test_a_run_that_compiles_is_another_run_as_one_in_another_precision_is() -> None:
    source = find_model("demo")
    plain = CaptionConfig()
    marks = [
        caption_fingerprint({}, source, plain.model_copy(update={"model": ModelConfig(**changes)}))
        for changes in ({}, {"precision": "bf16"}, {"compile": True}, {"compile": False})
    ]
    assert marks[0] == marks[3]
    assert marks[0] not in marks[1:3]
    assert set(marks[0]["model"]) == {*source.identity(), "precision"}
