"""CLIPScore spread over actors: the scores of one process, in order; faults in one line."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from raycap import schema
from raycap.config import ImageConfig, StorageConfig
from raycap.errors import ModelError
from raycap.evaluation.clip import ClipSpec, UriImages, clip_scores, spread_clip_scores
from raycap.models.clip_source import find_clip
from tests.conftest import S3, MakeJpeg
from tests.support.tiny_clip import save_clip

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


@pytest.fixture
def spec(tmp_path: Path) -> ClipSpec:
    images = UriImages(storage=StorageConfig(num_retries=0), max_bytes=1_000_000)
    model = find_clip(str(save_clip(tmp_path / "clip")))
    return ClipSpec(model=model, images=images, image=ImageConfig())


def tables(uris: list[str], rows_a_table: int) -> list[pa.Table]:
    whole = pa.table(
        {
            schema.IMAGE_ID: uris,
            schema.URI: uris,
            schema.ETAG: pa.nulls(len(uris), pa.string()),
            schema.CAPTION: [f"dog {at}" for at in range(len(uris))],
            schema.REFERENCE_CAPTIONS: [["a dog", f"{at}"] for at in range(len(uris))],
        }
    )
    starts = range(0, len(uris), rows_a_table)
    return [whole.slice(start, rows_a_table) for start in starts]


def test_actors_give_the_scores_of_one_process_in_order(
    spec: ClipSpec, s3: S3, make_jpeg: MakeJpeg
) -> None:
    for seed in range(40):
        s3.put(f"{seed}.jpg", make_jpeg(seed=seed))
    s3.put("broken.jpg", b"nothing")
    names = [*(f"{seed}.jpg" for seed in range(40)), "broken.jpg", "gone.jpg"]
    given = tables([f"{s3.uri}/{name}" for name in names], 6)
    found = pa.concat_tables(spread_clip_scores(iter(given), spec))
    expected = pa.concat_tables(clip_scores(given, spec))
    assert found[schema.IMAGE_ID].to_pylist() == [f"{s3.uri}/{name}" for name in names]
    assert found[schema.ERROR_CODE] == expected[schema.ERROR_CODE]
    assert found[schema.ERROR_CODE].to_pylist()[-2:] == ["unsupported_format", "not_found"]
    for name in (schema.CLIP_SCORE, schema.REF_CLIP_SCORE):
        assert found[name].to_pylist()[:40] == pytest.approx(
            expected[name].to_pylist()[:40], abs=1e-5
        )


def test_a_model_that_changed_stops_the_evaluation_in_one_line(
    spec: ClipSpec, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    make_jpeg(tmp_path / "dog.jpg")
    changed = replace(spec, model=replace(spec.model, digest="0" * 64))
    with pytest.raises(ModelError, match=str(spec.model.folder)) as told:
        list(spread_clip_scores(tables([str(tmp_path / "dog.jpg")], 1), changed))
    assert "\n" not in str(told.value)
