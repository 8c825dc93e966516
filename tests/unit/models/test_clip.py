"""CLIPScore against transformers' own CLIP; finding, checking and loading one."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPImageProcessorPil, CLIPModel

from raycap.config import ImageConfig
from raycap.errors import ConfigError, ModelError
from raycap.images.decoding import decode
from raycap.models.clip import ClipScorer
from raycap.models.clip_source import clip_folder, find_clip
from tests.support import tiny_blip
from tests.support.hub import MAIN, Hub, HubServer, use_hub
from tests.support.tiny_clip import CONTEXT, SIDE_PX, edit_config, random_image, save_clip

SHAPES = [(60, 40), (33, 95), (32, 32), (20, 16), (200, 32), (31, 64)]
CAPTIONS = ["a dog", "red", "blue cat", "x", "", "two men in the sun, all day long, and more"]
REFERENCES = [["a cat"], ["b", "c", "red"], ["blue cat"], ["y", "z"], ["", "a"], ["q"]]
Edit = Callable[[Path], object]


_one_thread = tiny_blip.one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.from_pretrained(folder)


@pytest.fixture(scope="module")
def images() -> list[UInt8[np.ndarray, "_ _ 3"]]:
    return [random_image(*shape, seed) for seed, shape in enumerate(SHAPES)]


def reference_cosines(
    folder: Path, images: list[UInt8[np.ndarray, "_ _ 3"]], texts: list[str]
) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "n n"]]:
    """What the library's own model and processors say: images with texts, texts with texts."""
    load: Any = CLIPModel.from_pretrained
    load_processor: Any = CLIPImageProcessorPil.from_pretrained
    load_tokenizer: Any = AutoTokenizer.from_pretrained
    pixels = load_processor(folder)([Image.fromarray(one) for one in images], return_tensors="pt")
    tokens = load_tokenizer(folder)(
        [f"A photo depicts {text}" for text in texts],
        return_tensors="pt",
        padding="max_length",
        truncation=True,
        max_length=CONTEXT,
    )
    with torch.no_grad():
        output = load(folder).eval()(**pixels, **tokens)
    texts_found = output.text_embeds
    return (output.image_embeds @ texts_found.T).numpy(), (texts_found @ texts_found.T).numpy()


def test_scores_equal_those_computed_with_transformers(
    scorer: ClipScorer, folder: Path, images: list[UInt8[np.ndarray, "_ _ 3"]]
) -> None:
    clip, ref_clip = scorer.score(images, CAPTIONS, REFERENCES)
    written = [text for one in REFERENCES for text in one]
    with_images, with_texts = reference_cosines(folder, images, CAPTIONS + written)
    expected = [2.5 * max(float(with_images[at, at]), 0.0) for at in range(len(images))]
    np.testing.assert_allclose(clip, expected, atol=1e-5)
    assert min(expected) == 0.0, "a cosine below 0 must be among the cases"
    start = len(CAPTIONS)
    for at, own in enumerate(REFERENCES):
        closest = max(0.0, float(with_texts[at, start : start + len(own)].max()))
        start += len(own)
        total = expected[at] + closest
        assert ref_clip[at] == pytest.approx(2 * expected[at] * closest / total, abs=1e-5)


def test_a_score_does_not_depend_on_its_batch(
    scorer: ClipScorer, images: list[UInt8[np.ndarray, "_ _ 3"]]
) -> None:
    whole = scorer.score(images, CAPTIONS, REFERENCES)
    for at, image in enumerate(images):
        alone = scorer.score([image], CAPTIONS[at : at + 1], REFERENCES[at : at + 1])
        np.testing.assert_allclose(np.ravel(alone), [whole[0][at], whole[1][at]], atol=1e-5)


def test_a_long_caption_is_cut_to_the_context(
    scorer: ClipScorer, images: list[UInt8[np.ndarray, "_ _ 3"]]
) -> None:
    # The prompt's 13 tokens, the start and the end leave 9 letters.
    kept, cut = "abcdefghi", "abcdefghi and no more of this"
    assert np.array_equal(
        scorer.score(images[:1], [kept], [[cut]]), scorer.score(images[:1], [cut], [[kept]])
    )


def test_an_image_without_references_has_no_second_score(
    scorer: ClipScorer, images: list[UInt8[np.ndarray, "_ _ 3"]]
) -> None:
    clip, ref_clip = scorer.score(images[:2], CAPTIONS[:2], [[], ["red"]])
    assert np.isfinite(clip).all()
    assert np.isnan(ref_clip).tolist() == [True, False]
    assert [len(one) for one in scorer.score([], [], [])] == [0, 0]


@pytest.mark.parametrize("processing", [{}, {"size": {"height": 40, "width": 36}}, {"resample": 2}])
@pytest.mark.parametrize("shape", [(640, 427), (427, 640), (33, 95), (20, 16), (1, 3), (32, 32)])
def test_decoding_to_the_target_gives_the_processors_pixels(
    tmp_path: Path, processing: dict[str, Any], shape: tuple[int, int]
) -> None:
    scorer = ClipScorer.from_pretrained(save_clip(tmp_path, **processing))
    load: Any = CLIPImageProcessorPil.from_pretrained
    load_other: Any = CLIPImageProcessor.from_pretrained
    # Smooth, as the two processors of transformers differ where bicubic waves are cut off.
    image = Image.fromarray(random_image(*shape, 0)).resize((9, 9)).resize(shape)
    sink = BytesIO()
    image.save(sink, "PNG")
    decoded = decode(sink.getvalue(), scorer.target(*shape), ImageConfig()).pixels
    found = scorer._processor([decoded], input_data_format="channels_last").pixel_values[0]
    assert found.shape == (3, SIDE_PX, SIDE_PX)
    np.testing.assert_array_equal(found, load(tmp_path)(image).pixel_values[0])
    two_levels = 2 / 255 / 0.26
    np.testing.assert_allclose(
        found, load_other(tmp_path)(image).pixel_values[0], atol=two_levels, rtol=0
    )


def test_the_target_of_a_processor_that_does_not_resize_is_the_image(tmp_path: Path) -> None:
    scorer = ClipScorer.from_pretrained(save_clip(tmp_path, do_resize=False))
    assert (scorer.target(70, 50).width_px, scorer.target(70, 50).height_px) == (70, 50)


def test_numbers_that_are_not_finite_are_refused(
    folder: Path, images: list[UInt8[np.ndarray, "_ _ 3"]]
) -> None:
    scorer = ClipScorer.from_pretrained(folder)
    with torch.no_grad():
        scorer._model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="finite"):
        scorer.score(images, CAPTIONS, REFERENCES)


# Finding and loading


def test_a_folder_is_found_and_identified(folder: Path) -> None:
    source = find_clip(str(folder))
    assert (source.kind, source.revision, source.folder) == ("clip", None, str(folder))
    assert clip_folder(source) == folder
    with pytest.raises(ModelError) as caught:
        clip_folder(replace(source, digest="0" * 64))
    assert caught.value.uri == str(folder)


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("edit", "at_fault", "fact"),
    [
        (lambda at: edit_config(at, model_type="blip"), "", "'blip'"),
        (lambda at: edit_config(at, architectures=["CLIPTextModel"]), "", "CLIPTextModel"),
        (lambda at: edit_config(at, vision_config=None), "config.json", "vision_config"),
        (lambda at: (at / "model.safetensors").rename(at / "pytorch_model.bin"), "", "pickle"),
        (remove("config.json"), "", r"config\.json"),
        (remove("tokenizer.json"), "", "tokenizer"),
        (remove("preprocessor_config.json"), "", r"preprocessor_config\.json"),
    ],
)
def test_a_folder_that_is_no_whole_clip_is_refused(
    edit: Edit, at_fault: str, fact: str, tmp_path: Path
) -> None:
    save_clip(tmp_path)
    edit(tmp_path)
    with pytest.raises(ModelError, match=fact) as told:
        find_clip(str(tmp_path))
    assert told.value.uri == str(tmp_path / at_fault)


def test_a_clip_of_the_hub_is_pinned_to_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Hub(files={MAIN: {file.name: file.read_bytes() for file in folder.iterdir()}})
    with HubServer(served) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        use_hub(monkeypatch, served.url, tmp_path)
        source = find_clip("org/blip")
        server.shutdown()
    assert (source.name, source.revision) == ("org/blip", MAIN)
    assert source.digest == find_clip(str(folder)).digest
    assert clip_folder(source).name == MAIN, "the cache suffices"


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        find_clip("./nowhere")
    assert caught.value.uri == "./nowhere"


def test_missing_and_broken_weights_are_refused(tmp_path: Path) -> None:
    file = save_clip(tmp_path) / "model.safetensors"
    weights = load_file(file)
    del weights["visual_projection.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"\b1 .*visual_projection") as told:
        ClipScorer.from_pretrained(tmp_path)
    assert told.value.uri == str(tmp_path)
    file.write_bytes(b"nonsense")
    with pytest.raises(ModelError) as told:
        ClipScorer.from_pretrained(tmp_path)
    assert told.value.uri == str(file)
    assert "\n" not in str(told.value)
