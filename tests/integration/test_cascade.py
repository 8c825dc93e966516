"""A second model for weak captions: which rows it writes, and that each is asked for once."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raycap
from raycap.captioning.output import open_finished
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, GenerationConfig, ImageConfig, ModelConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, DatasetError, RunConflict, RunStopped
from raycap.images.decoding import decode
from raycap.models.base import Caption
from raycap.models.folders import write_json
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.progress import Progress
from raycap.results.captioning import Summary
from tests.support.faulty_http import Reply, faulty_server

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

BELOW = -1.5  # the stub's scores lie between -1 and -2, by the image
NUM_IMAGES = 24


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    for number in range(NUM_IMAGES):
        write_image(folder / f"{number:02d}.png", number)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second model: the stub under another name."""
    folder = tmp_path_factory.mktemp("larger")
    write_json(folder / "raycap.json", {"kind": "stub"})
    return str(folder)


@dataclass(frozen=True)
class Finished:
    """A run that went undisturbed, one image broken; no test writes to its folders."""

    photos: Path
    output: Path
    config: CaptionConfig
    summary: Summary


@pytest.fixture(scope="module")
def whole(ray_session: None, larger: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    del ray_session
    folder = tmp_path_factory.mktemp("whole")
    photos, output = write_photos(folder / "photos"), folder / "out"
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    settings = config(larger, prompt="larger:")
    return Finished(photos, output, settings, raycap.caption(photos, output, config=settings))


def write_image(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def config(larger: str | None, **cascade: Any) -> CaptionConfig:
    second = {} if larger is None else {"model": larger, "below": BELOW, **cascade}
    return validate_config(
        CaptionConfig,
        {"model": {"name": "stub"}, "engine": {"part_size": 8, "batch_size": 2}, "cascade": second},
    )


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    """All rows of an output by their image."""
    rows = []
    for part in sorted((output / "captions").iterdir()):
        rows += pq.read_table(part).to_pylist()
    return {row["image_id"]: row for row in rows}


def said_of(file: Path) -> Caption:
    """What the stub says of an image."""
    source = find_model("stub")
    image = decode(file.read_bytes(), source.target, ImageConfig())
    captioner = load_captioner(source, ModelConfig(), GenerationConfig())
    (caption,) = captioner.caption(image.pixels[None])
    return caption


def weak(photos: Path) -> set[str]:
    """Of which images the first model is unsure."""
    files = [file for file in photos.iterdir() if file.name != "broken.png"]
    found = {file.name for file in files if said_of(file).logprob < BELOW}
    assert 0 < len(found) < NUM_IMAGES
    return found


def test_weak_captions_and_no_others_are_the_second_models(whole: Finished, larger: str) -> None:
    expected = weak(whole.photos)
    output, summary = whole.output, whole.summary
    rows = rows_of(output)
    assert {name for name, row in rows.items() if row["model"] == larger} == expected
    for name, row in rows.items():
        begins = (row["caption"] or "").startswith("larger: ")
        assert begins == (name in expected)
    assert rows["broken.png"]["status"] == "failed"
    assert rows["broken.png"]["model"] is None
    assert summary.num_images == summary.num_captioned == NUM_IMAGES + 1
    assert (summary.num_ok, summary.num_failed) == (NUM_IMAGES, 1)
    told = {"num_images": len(expected), "num_failed": 0, "below": BELOW}
    assert summary.cascade.items() >= told.items()
    assert summary.cascade["model"]["name"] == larger
    assert verify(output).is_complete

    before = {file: file.stat().st_mtime_ns for file in (output / "captions").iterdir()}
    again = raycap.caption(whole.photos, output, config=whole.config)
    assert again.num_captioned == 0
    assert again.cascade == summary.cascade
    assert {file: file.stat().st_mtime_ns for file in before} == before
    with pytest.raises(RunConflict, match="cascade"):
        raycap.caption(whole.photos, output, config=config(None))


@pytest.mark.parametrize("num_after", [0, 1], ids=["between the passes", "in the second"])
def test_a_run_that_was_stopped_asks_the_second_model_for_the_rest(
    num_after: int, whole: Finished, tmp_path: Path
) -> None:
    output, num_images = tmp_path / "out", NUM_IMAGES + 1
    seen: list[int] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.num_done)
        if num_images in seen and len(seen) == seen.index(num_images) + 1 + num_after:
            raise KeyboardInterrupt

    with pytest.raises(RunStopped):
        raycap.caption(whole.photos, output, config=whole.config, on_progress=stop)
    assert not (output / "summary.json").exists()
    found = verify(output)
    assert found.is_sound
    assert 0 < found.num_pending < NUM_IMAGES
    assert found.num_ok + found.num_failed + found.num_pending == num_images
    with pytest.raises(DatasetError, match=r"second model"):
        open_finished(str(output), StorageConfig())

    summary = raycap.caption(whole.photos, output, config=whole.config)
    assert summary.num_captioned == found.num_pending, "what stood was not captioned again"
    assert rows_of(output) == rows_of(whole.output)
    assert verify(output).is_complete


def test_an_image_that_is_gone_keeps_its_caption_and_a_changed_one_goes_through_both_models(
    photos: Path, larger: str, tmp_path: Path
) -> None:
    gone, changed = sorted(weak(photos))[:2]
    output, file = tmp_path / "out", (photos / gone).read_bytes()

    def remove(progress: Progress) -> None:
        if progress.num_done == NUM_IMAGES:
            (photos / gone).unlink(missing_ok=True)

    summary = raycap.caption(photos, output, config=config(larger), on_progress=remove)
    assert summary.cascade["num_failed"] == 1
    assert (summary.num_ok, summary.num_failed) == (NUM_IMAGES, 0)
    before = rows_of(output)
    row = before[gone]
    assert (row["status"], row["model"], row["error_code"]) == ("ok", "stub", None)

    (photos / gone).write_bytes(file)  # of another time, so changed as well
    seed = NUM_IMAGES
    while seed == NUM_IMAGES or said_of(photos / changed).logprob >= BELOW:
        write_image(photos / changed, seed)
        seed += 1
    again = raycap.caption(photos, output, config=config(larger))
    after = rows_of(output)
    expected = said_of(photos / changed).text
    assert (after[changed]["caption"], after[changed]["model"]) == (expected, larger)
    assert after[gone]["model"] == larger
    assert {name for name in after if after[name] != before[name]} == {changed, gone}
    assert again.num_captioned == 2
    assert (again.cascade["num_images"], again.cascade["num_failed"]) == (
        summary.cascade["num_images"],
        0,
    )


def test_signed_addresses_are_fetched_again_for_the_second_model_and_not_written_down(
    photos: Path, larger: str, tmp_path: Path
) -> None:
    expected, output = weak(photos), tmp_path / "out"
    listed = tmp_path / "list.txt"
    with faulty_server() as web:  # which knows its pages by their whole addresses only
        pages = [f"/{file.name}?X-Amz-Signature=planted" for file in sorted(photos.iterdir())]
        for page, file in zip(pages, sorted(photos.iterdir()), strict=True):
            web.pages[page] = Reply(body=file.read_bytes())
        listed.write_text("".join(f"{web.url}{page}\n" for page in pages))
        summary = raycap.caption(listed, output, config=config(larger))
        reads = Counter(path.strip("/").partition("?")[0] for _, path, _ in web.requests)
    assert (summary.num_ok, summary.num_failed) == (NUM_IMAGES, 0)
    assert (summary.cascade["num_images"], summary.cascade["num_failed"]) == (len(expected), 0)
    rows = rows_of(output)
    found = {name.rpartition("/")[2] for name, row in rows.items() if row["model"] == larger}
    assert found == expected
    assert {name for name, count in reads.items() if count > 1} == expected
    assert all("planted" not in str(row) for row in rows.values())
    for part in (output / "manifest").iterdir():
        assert "planted" not in str(pq.read_table(part).to_pylist())


def test_the_first_model_again_is_no_second_one(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        raycap.caption(photos, tmp_path / "out", config=config("stub"))
    assert caught.value.setting == "cascade.model"
