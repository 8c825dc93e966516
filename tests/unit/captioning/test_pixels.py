"""Images of several sizes in one block: what captioners get, and that none depends on others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from jaxtyping import UInt8

from raycap import schema
from raycap.captioning.captioner import CaptionActor, alike
from raycap.captioning.loading import RunSpec
from raycap.captioning.pixels import LoadedImages
from raycap.captioning.prompts import prompts_of
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.models.base import BatchRange, Question
from raycap.models.fitting import fit_images
from raycap.models.sources import find_model
from tests.support import tiny_blip
from tests.support.tiny_vlm import KEPT_ANSWERS, random_images, save_vlm

_one_thread = tiny_blip.one_thread

SHAPES = [(56, 28), (28, 56), (56, 56), (56, 28), (28, 56), (56, 28)]


def images() -> list[UInt8[np.ndarray, "h w 3"] | None]:
    whole = random_images(len(SHAPES), 56)
    cut = [image[:height, :width] for image, (height, width) in zip(whole, SHAPES, strict=True)]
    return [None, *cut[:3], None, *cut[3:]]


def loaded(found: list[UInt8[np.ndarray, "h w 3"] | None]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for row, image in enumerate(found):
        known: dict[str, Any] = {schema.STATUS: "failed", schema.ERROR_CODE: "empty"}
        if image is not None:
            height_px, width_px, _ = image.shape
            size = {schema.INPUT_WIDTH_PX: width_px, schema.INPUT_HEIGHT_PX: height_px}
            known = {schema.STATUS: "ok", schema.PIXELS: image.tobytes(), **size}
        place = {schema.PART: 0, schema.ROW: row, schema.NUM_ROWS: len(found)}
        counts = {schema.PARTIAL: False, schema.NUM_BYTES: 1, schema.ATTEMPTS: 1}
        names = {schema.IMAGE_ID: str(row), schema.URI: str(row), schema.ALTERNATIVES: []}
        asked = {schema.PROMPT: 0, schema.IS_FIRST: True}
        rows.append({**place, **counts, **names, **asked, **known})
    return pa.Table.from_pylist(rows, schema=schema.LOADED)


def test_images_are_read_where_they_lie_in_a_row() -> None:
    found = images()
    table = loaded(found)
    block = LoadedImages(pa.concat_tables([table.slice(1, 4), table.slice(5, 3)]))
    assert block.rows == [0, 1, 2, 4, 5, 6]
    assert block.shapes == SHAPES
    known = [image for image in found if image is not None]
    for places in ([0], [2], [0, 3], [1, 4], [0, 3, 5]):
        expected = np.stack([known[place] for place in places])
        assert np.array_equal(block.pixels(places), expected)
    same = LoadedImages(loaded([known[0], None, known[3], known[5]]))
    pixels = same.pixels([0, 1, 2])
    assert np.array_equal(pixels, np.stack([known[0], known[3], known[5]]))
    assert not pixels.flags.owndata, "images of one shape are not copied"
    assert len(LoadedImages(loaded([None]))) == 0


def test_a_group_has_one_shape_and_the_same_prompts() -> None:
    wide, tall = (28, 56), (56, 28)
    one, two = Question(text="one"), Question(text="two")
    asked = [((0,), [one]), ((0, 1), [one, two]), ((0,), [two]), ((0,), [one])]
    assert list(alike(asked, [wide, wide, wide, tall])) == [
        ([0, 2], [[one], [two]]),
        ([1], [[one, two]]),
        ([3], [[one]]),
    ]
    assert list(alike(None, [wide, tall, wide])) == [([0, 2], None), ([1], None)]
    assert list(alike(None, [])) == []


@pytest.fixture(scope="module", params=["idefics3", "qwen2_vl"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    folder = tmp_path_factory.mktemp("model")
    generation = {"num_beams": 1, "max_new_tokens": 6, "prompt": "Describe this picture"}
    model = {"name": str(save_vlm(request.param, folder)), "precision": "fp32"}
    config = validate_config(
        CaptionConfig,
        {
            "model": model,
            "generation": generation,
            "image": {"fit": "keep"},
            "answers": KEPT_ANSWERS,
        },
    )
    return RunSpec(
        output=str(folder / "out"),
        config=config,
        model=fit_images(find_model(config.model.name), config.image),
        batches=BatchRange.fixed(4),
        torch_threads=1,
        prompts=prompts_of(config),
    )


def test_a_caption_does_not_depend_on_the_images_around_it(spec: RunSpec) -> None:
    actor = CaptionActor(spec)
    found = images()
    rows = actor(loaded(found)).to_pylist()
    assert [row[schema.STATUS] for row in rows].count("failed") == 2
    backwards = actor(loaded(found[::-1])).to_pylist()[::-1]
    alone = [actor(loaded([image])).to_pylist()[0] for image in found]
    for row, *others in zip(rows, backwards, alone, strict=True):
        for other in others:
            assert row[schema.CAPTION] == other[schema.CAPTION]
            if row[schema.LOGPROB] is not None:
                assert row[schema.LOGPROB] == pytest.approx(other[schema.LOGPROB], abs=1e-4)
    assert len({row[schema.CAPTION] for row in rows}) > 2


def test_blocks_of_large_images_have_fewer_rows(spec: RunSpec) -> None:
    assert spec.block_rows == 8
    assert spec.block_bytes < 8 * spec.model.target.num_bytes


def test_images_of_any_shape_are_asked_again_with_twice_the_tokens(spec: RunSpec) -> None:
    def captions(num_tokens: int, **answers: str) -> list[str | None]:
        update = {"max_new_tokens": num_tokens}
        generation = spec.config.generation.model_copy(update=update)
        kept = spec.config.answers.model_copy(update=answers)
        config = spec.config.model_copy(update={"generation": generation, "answers": kept})
        rows = CaptionActor(replace(spec, config=config))(loaded(images())).to_pylist()
        return [row[schema.CAPTION] for row in rows]

    assert captions(4, truncated="retry_keep") == captions(8) != captions(4)
