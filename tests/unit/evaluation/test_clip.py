"""CLIPScore of tables: images read from anywhere, and those that cannot be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raycap import schema
from raycap.config import ImageConfig, StorageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.evaluation.clip import CHANGED, ClipSpec, UriImages, clip_columns, clip_scores
from raycap.evaluation.matching import IS_SCORED, column
from raycap.images.decoding import decode
from raycap.models.clip import ClipScorer
from raycap.models.clip_source import find_clip
from raycap.storage.local import file_version
from tests.conftest import MakeJpeg
from tests.support import tiny_blip
from tests.support.tiny_clip import save_clip

_one_thread = tiny_blip.one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.from_pretrained(folder)


def table(
    uris: list[str | None], captions: list[str | None], etags: list[str | None] | None = None
) -> pa.Table:
    return pa.table(
        {
            schema.IMAGE_ID: [f"{at}.jpg" for at in range(len(uris))],
            schema.URI: pa.array(uris, pa.string()),
            schema.ETAG: pa.array(etags or [None] * len(uris), pa.string()),
            schema.CAPTION: pa.array(captions, pa.string()),
            schema.REFERENCE_CAPTIONS: [["a dog", "red"]] * len(uris),
        }
    )


@pytest.fixture
def spec(folder: Path) -> ClipSpec:
    images = UriImages(storage=StorageConfig(), max_bytes=1_000_000)
    return ClipSpec(model=find_clip(str(folder)), images=images, image=ImageConfig())


def test_tables_are_scored_row_for_row(
    spec: ClipSpec, scorer: ClipScorer, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    files = [tmp_path / f"{seed}.jpg" for seed in range(70)]
    decoded = [
        decode(make_jpeg(file, seed=seed), scorer.target(64, 48), ImageConfig()).pixels
        for seed, file in enumerate(files)
    ]
    captions: list[str | None] = [f"dog {seed}" for seed in range(70)]
    given = table([str(file) for file in files], captions)
    parts = list(clip_scores([given[:50], given[50:]], spec))
    assert [len(part) for part in parts] == [50, 20]
    found = pa.concat_tables(parts)
    expected = scorer.score(decoded, [str(text) for text in captions], [["a dog", "red"]] * 70)
    np.testing.assert_allclose(found[schema.CLIP_SCORE].to_numpy(), expected[0], atol=1e-5)
    np.testing.assert_allclose(found[schema.REF_CLIP_SCORE].to_numpy(), expected[1], atol=1e-5)
    assert found[schema.IMAGE_ID] == given[schema.IMAGE_ID]
    assert found[schema.ERROR_CODE].null_count == 70


def test_an_unreadable_image_has_no_score_and_a_code(
    spec: ClipSpec, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    make_jpeg(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes(make_jpeg()[:200])
    make_jpeg(tmp_path / "long.jpg", size=(4000, 20))
    (tmp_path / "large.jpg").write_bytes(bytes(1_500_000))
    names = ["good.jpg", "cut.jpg", "gone.jpg", "long.jpg", "large.jpg"]
    given = table([*(str(tmp_path / name) for name in names), None], ["dog"] * 6)
    strict = replace(spec, image=ImageConfig(max_bytes=1_000_000))
    (found,) = clip_scores([given], strict)
    assert found[schema.ERROR_CODE].to_pylist() == [
        None, "decode_failed", "not_found", "model_rejected", "too_large", "not_found",
    ]  # fmt: skip
    assert found[schema.CLIP_SCORE].is_valid().to_pylist() == [True, *[False] * 5]
    assert found[schema.REF_CLIP_SCORE].is_valid().to_pylist() == [True, *[False] * 5]


def test_an_image_that_has_changed_since_it_was_captioned_has_no_score_and_is_counted(
    spec: ClipSpec, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    names = [str(tmp_path / f"{seed}.jpg") for seed in range(4)]
    for seed, name in enumerate(names[:3]):
        make_jpeg(Path(name), seed=seed)
    same = file_version(names[0])
    given = table([*names], ["dog"] * 4, [same, "another", None, same])
    (found,) = clip_scores([given], spec)
    assert found[schema.ERROR_CODE].to_pylist() == [None, CHANGED, None, "not_found"]
    assert found[schema.CLIP_SCORE].is_valid().to_pylist() == [True, False, True, False]
    chunk = pa.table(
        {
            schema.IMAGE_ID: given[schema.IMAGE_ID],
            schema.REFERENCE_CAPTIONS: given[schema.REFERENCE_CAPTIONS],
            IS_SCORED: [True, True, True, False],
            **{column(name, 0): given[name] for name in (schema.URI, schema.ETAG, schema.CAPTION)},
        }
    )
    (system,) = clip_columns(spec, [[chunk]], is_spread=False)
    assert system.unscored == {CHANGED: 1}
    assert np.isnan(system.columns[schema.CLIP_SCORE]).tolist() == [False, True, False]


def test_a_row_without_a_caption_is_not_read(spec: ClipSpec) -> None:
    (found,) = clip_scores([table(["nowhere.jpg"] * 2, [None, None])], spec)
    assert found.to_pylist() == [
        {"image_id": f"{at}.jpg", "clip_score": None, "ref_clip_score": None, "error_code": None}
        for at in range(2)
    ]


def test_images_may_come_from_anywhere(spec: ClipSpec, make_jpeg: MakeJpeg) -> None:
    def read(rows: pa.Table) -> list[bytes | ImageError]:
        stored: dict[str, bytes | ImageError] = {
            "0.jpg": make_jpeg(), "1.jpg": ImageError(ErrorCode.TIMEOUT, "slow")
        }  # fmt: skip
        return [stored[key] for key in rows[schema.IMAGE_ID].to_pylist()]

    (found,) = clip_scores([table([None, None], ["dog", "cat"])], replace(spec, images=read))
    assert found[schema.ERROR_CODE].to_pylist() == [None, "timeout"]
    assert found[schema.CLIP_SCORE].is_valid().to_pylist() == [True, False]
