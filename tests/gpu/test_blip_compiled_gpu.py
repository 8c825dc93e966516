"""Compiled BLIP with CUDA graphs writes the captions of plain BLIP on the same accelerator."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from raycap.config import GenerationConfig, ModelConfig
from raycap.demo.scenes import render, scene
from raycap.demo.train import resize
from raycap.models.base import Caption
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.sources import DEMO_FOLDER
from tests.support import tiny_blip

unchecked = tiny_blip.unchecked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
    pytest.mark.skipif(not DEMO_FOLDER.is_dir(), reason="the demo model is not built"),
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore"),  # of the compiler, about this machine
]

SEARCHES = {
    "greedy": GenerationConfig(num_beams=1),
    "beams": GenerationConfig(num_beams=3),
    "prompt": GenerationConfig(num_beams=3, prompt="a picture of", min_new_tokens=7),
}


def captioner(generation: GenerationConfig, precision: str, *, compiles: bool) -> BlipCaptioner:
    model = ModelConfig.model_validate({"precision": precision, "compile": compiles})
    return BlipCaptioner.from_pretrained(DEMO_FOLDER, model, generation)


def scenes(num_images: int) -> Any:
    return np.stack([resize(render(scene(5, index))) for index in range(num_images)])


def counted(name: str) -> int:
    from torch._dynamo.utils import counters  # noqa: PLC0415  takes a second

    return int(counters["inductor"][name])


def check_close(found: list[Caption], expected: list[Caption], atol: float = 1e-2) -> None:
    same = [one.text == other.text for one, other in zip(found, expected, strict=True)]
    # Other kernels round otherwise, so that a near tie may fall the other way.
    assert np.mean(same) >= 0.9
    for alike, one, other in zip(same, found, expected, strict=True):
        assert not alike or one.logprob == pytest.approx(other.logprob, abs=atol)


@pytest.mark.parametrize("generation", SEARCHES.values(), ids=SEARCHES)
def test_compiled_captions_are_the_plain_ones(generation: GenerationConfig) -> None:
    images = scenes(16)
    skipped = counted("cudagraph_skips")
    plain = captioner(generation, "fp32", compiles=False)
    compiled = captioner(generation, "fp32", compiles=True)
    # Often enough to warm up, to record and to replay; odd sizes and turned round, so that what an
    # earlier batch left behind would show.
    for batch in (images, images, images[:11], images[::-1], images[:3], images[:3], images):
        check_close(compiled.caption(batch), plain.caption(batch))
    assert counted("cudagraph_skips") == skipped, "CUDA graphs must be used"


def test_half_precision_captions_alike() -> None:
    generation, images = GenerationConfig(num_beams=3), scenes(16)
    plain = captioner(generation, "auto", compiles=False).caption(images)
    compiled = captioner(generation, "auto", compiles=True)
    for _ in range(3):
        again = compiled.caption(images)
        same = [one.text == other.text for one, other in zip(again, plain, strict=True)]
        assert np.mean(same) >= 0.7
        assert all(np.isfinite(caption.logprob) for caption in again)


def test_captioners_and_threads_share_what_is_compiled() -> None:
    images = scenes(8)
    plain = captioner(GenerationConfig(num_beams=3), "fp32", compiles=False)
    first = captioner(GenerationConfig(num_beams=3), "fp32", compiles=True)
    shorter = first.with_generation(GenerationConfig(num_beams=3, max_new_tokens=6))
    other = captioner(GenerationConfig(num_beams=3), "fp32", compiles=True)
    found: list[list[Caption]] = []

    def work() -> None:
        found.extend(first.caption(images) for _ in range(4))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        found += [other.caption(images), first.caption(images)]
        shorter.caption(images)
    for thread in threads:
        thread.join()
    expected = plain.caption(images)
    assert len(found) == 16
    for captions in found:
        check_close(captions, expected)
