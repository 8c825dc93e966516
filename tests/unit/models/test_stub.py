"""The captioner without weights."""

import time
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from raycap.config import GenerationConfig, ModelConfig
from raycap.models.sources import find_model
from raycap.models.stub import StubCaptioner


def stub(generation: GenerationConfig | None = None, latency_s: float = 0.0) -> StubCaptioner:
    model = ModelConfig(name="stub", stub_latency_s=latency_s)
    return StubCaptioner(model, generation or GenerationConfig())


def noise(num_images: int) -> UInt8[np.ndarray, "b h w 3"]:
    return np.random.default_rng(0).integers(0, 256, (num_images, 64, 64, 3), dtype=np.uint8)


def plain(*colours: tuple[int, int, int]) -> UInt8[np.ndarray, "b h w 3"]:
    return np.array(colours, np.uint8)[:, None, None].repeat(64, axis=1).repeat(64, axis=2)


def test_the_caption_says_what_the_pixels_are() -> None:
    captions = stub().caption(plain((0, 0, 0), (250, 250, 250), (60, 80, 220), (200, 40, 40)))
    starts = [caption.text.partition(", called ")[0] for caption in captions]
    assert starts == [
        "a dark black image with flat edges",
        "a brilliant white image with flat edges",
        "a dim blue image with flat edges",
        "a dim red image with flat edges",
    ]


def test_different_images_get_different_captions() -> None:
    images = noise(500)
    images[1:] = images[0]
    images[np.arange(500), 0, 1 + np.arange(500) % 60, 1] ^= np.arange(500).astype(np.uint8) + 1
    captions = stub().caption(images)
    assert len({caption.text for caption in captions}) >= 499
    assert all(-2.0 < caption.logprob <= -1.0 for caption in captions)


def test_a_caption_depends_on_its_image_alone() -> None:
    images = noise(9)
    whole = stub().caption(images)
    assert [stub().caption(image[None])[0] for image in images] == whole
    assert stub().caption(images[::-1]) == whole[::-1]


def test_captions_change_only_with_the_stubs_version() -> None:
    ramp = np.arange(64 * 64 * 3, dtype=np.int64).reshape(1, 64, 64, 3) % 251
    (caption,) = stub().caption(ramp.astype(np.uint8))
    assert caption.text == "a dim grey image with harsh edges, called lijig-fodut"


def test_prompt_and_several_captions_are_honoured() -> None:
    generation = GenerationConfig(num_beams=5, num_captions=4, prompt="a picture of ")
    (caption,) = stub(generation).caption(noise(1))
    found = [caption, *caption.alternatives]
    assert len({one.text for one in found}) == 4
    assert all(one.text.startswith("a picture of a ") for one in found)
    assert [one.logprob for one in found] == sorted((one.logprob for one in found), reverse=True)


def test_the_latency_is_that_of_a_batch() -> None:
    started = time.perf_counter()
    assert len(stub(latency_s=0.05).caption(noise(20))) == 20
    assert 0.05 <= time.perf_counter() - started < 0.5


def test_an_empty_batch_has_no_captions() -> None:
    assert stub().caption(noise(0)) == []


def test_a_folder_can_give_the_stub_another_name(tmp_path: Path) -> None:
    (tmp_path / "raycap.json").write_text('{"kind": "stub"}')
    source = find_model(str(tmp_path))
    assert (source.kind, source.name) == ("stub", str(tmp_path))
    assert source.digest == find_model("stub").digest


def test_twenty_thousand_images_take_seconds() -> None:
    images, captioner = noise(1000), stub()
    started = time.perf_counter()
    for _ in range(5):
        captioner.caption(images)
    assert time.perf_counter() - started < 2.0, "20,000 images should take about a second"
