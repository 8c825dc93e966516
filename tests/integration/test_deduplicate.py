"""Images that are the same bytes: one call of the model, a row each, whatever happens between."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raycap
from raycap.captioning.output import open_finished
from raycap.captioning.parts import CAPTIONS, encode_captions, read_captions_part
from raycap.captioning.run import forecast
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.errors import DatasetError, RunStopped
from raycap.models.folders import write_json
from raycap.progress import Progress
from raycap.storage.parts import list_parts, part_key
from raycap.storage.stores import open_store

pytestmark = pytest.mark.usefixtures("ray_session")


def config(**sections: Any) -> CaptionConfig:
    engine = {"part_size": 4, "batch_size": 2, "deduplicate": "content"}
    engine |= sections.pop("engine", {})
    return validate_config(CaptionConfig, {"model": {"name": "stub"}, "engine": engine, **sections})


def write_image(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def write_images(folder: Path, seeds: list[int]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        write_image(folder / f"{number:02d}.png", seed)
    return folder


def parts_of(output: Path) -> list[Path]:
    return sorted((output / "captions").iterdir())


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [row for part in parts_of(output) for row in pq.read_table(part).to_pylist()]


def captions_of(output: Path) -> dict[str, str | None]:
    return {row["image_id"]: row["caption"] for row in rows_of(output)}


def num_calls(rows: list[dict[str, Any]]) -> int:
    """How many images the model was asked about: copies have no attempt, and no other has none."""
    return sum(row["attempts"] > 0 for row in rows)


SEEDS = [0, 1, 0, 2, 1, 0, 3, 3, 0, 4, 4, 2, 0]


def test_equal_images_are_asked_about_once_and_each_has_its_row(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", SEEDS)
    (images / "broken-1.png").write_bytes(b"no image")
    (images / "broken-2.png").write_bytes(b"no image")
    off = config(engine={"deduplicate": "off"})
    raycap.caption(images, tmp_path / "each", config=off)
    summary = raycap.caption(images, tmp_path / "out", config=config())
    rows = rows_of(tmp_path / "out")
    assert captions_of(tmp_path / "out") == captions_of(tmp_path / "each")
    assert len({row["digest"] for row in rows}) == 6
    images_read = [row for row in rows if row["width_px"]]
    assert num_calls(images_read) == 5
    assert (summary.num_ok, summary.num_copies) == (13, 8)
    assert summary.failed == {"unsupported_format": 2}
    found = verify(tmp_path / "out")
    assert found.is_complete
    assert (found.num_ok, found.num_failed) == (13, 2)
    again = raycap.caption(images, tmp_path / "out", config=config())
    assert again.num_captioned == 0
    assert again.num_copies == 8


def keep_texts(output: Path, text: str = "kept") -> None:
    """Replace all captions, so that a later run shows which images it asked about."""
    for part in parts_of(output):
        table = pq.read_table(part)
        place = table.schema.get_field_index("caption")
        kept = [one and text for one in table["caption"].to_pylist()]
        field = table.schema.field(place)
        pq.write_table(table.set_column(place, field, pa.array(kept, pa.string())), part)


def test_new_images_get_the_captions_of_equal_ones_even_if_these_are_gone(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", [0, 1, 2, 3, 4]), tmp_path / "out"
    raycap.caption(images, output, config=config(engine={"deduplicate": "off"}))
    keep_texts(output)
    (images / "00.png").unlink()
    for number, seed in enumerate([0, 1, 9, 9], start=20):
        write_image(images / f"{number}.png", seed)
    summary = raycap.caption(images, output, config=config())
    captions = captions_of(output)
    assert {captions[name] for name in ("20.png", "21.png")} == {"kept"}
    assert captions["22.png"] == captions["23.png"] != "kept"
    assert [captions[f"{number:02d}.png"] for number in range(5)] == ["kept"] * 5
    assert (summary.num_copies, summary.num_gone, summary.num_captioned) == (3, 1, 4)
    assert verify(output).is_complete


@pytest.mark.slow
def test_a_changed_image_is_captioned_anew_unless_its_bytes_are_known(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", [0, 0, 1, 2, 2, 5]), tmp_path / "out"
    one_part = config(engine={"part_size": 8})  # the first of equal images is the original
    raycap.caption(images, output, config=one_part)
    keep_texts(output)
    write_image(images / "00.png", 7)  # the original of 01.png
    write_image(images / "04.png", 1)
    write_image(images / "05.png", 5)  # the same bytes with another time
    before = rows_of(output)[5]
    summary = raycap.caption(images, output, config=one_part)
    captions = captions_of(output)
    assert captions.pop("00.png") != "kept"
    assert set(captions.values()) == {"kept"}
    assert (summary.num_captioned, summary.num_copies) == (3, 2)
    after = rows_of(output)[5]
    assert after == before | {"etag": after["etag"]}
    assert after["etag"] != before["etag"]
    assert verify(output).is_complete


@pytest.mark.slow
def test_the_failure_of_the_model_is_shared_and_so_is_the_retry(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", [0, 1]), tmp_path / "out"
    for number in range(10, 16):
        Image.new("RGB", (24, 24), (255, 0, 255)).save(images / f"{number}.png")
    faulty = config(model={"name": "stub", "stub_fault": "raise"})
    summary = raycap.caption(images, output, config=faulty)
    assert (summary.failed, summary.num_copies) == ({"model_rejected": 6}, 5)
    rows = rows_of(output)
    assert len({row["error_message"] for row in rows}) == 2
    retried = raycap.caption(images, output, config=config(), retry_failed=["model_rejected"])
    assert (retried.num_ok, retried.num_captioned, retried.num_copies) == (8, 6, 5)
    assert verify(output).is_complete


class Stop:
    """Stops a run once a given number of images is done."""

    def __init__(self, num_done: int) -> None:
        self._num_done = num_done

    def __call__(self, progress: Progress) -> None:
        if progress.num_done >= self._num_done:
            raise KeyboardInterrupt


def stop_at(num_done: int, images: Path, output: Path, settings: CaptionConfig) -> None:
    with pytest.raises(RunStopped):
        raycap.caption(images, output, config=settings, on_progress=Stop(num_done))
    found = verify(output)
    assert found.is_sound
    assert not found.is_complete
    assert found.num_ok + found.num_failed + found.num_pending == found.num_images


def test_a_run_that_stopped_before_the_end_only_copies(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", SEEDS), tmp_path / "out"
    stop_at(len(SEEDS), images, output, config())
    waiting = [row for row in rows_of(output) if row["error_code"] == "awaits_original"]
    with pytest.raises(DatasetError):
        open_finished(str(output), StorageConfig())
    foreseen = forecast(images, output, config=config())
    if len(parts_of(output)) == 4:  # the last part may have been under way
        assert (foreseen.num_pending, foreseen.num_copies) == (0, len(waiting))
    assert waiting
    summary = raycap.caption(images, output, config=config())
    assert (summary.num_ok, summary.num_copies) == (13, 8)
    raycap.caption(images, tmp_path / "each", config=config(engine={"deduplicate": "off"}))
    assert captions_of(output) == captions_of(tmp_path / "each")
    assert verify(output).is_complete


def await_again(output: Path, names: set[str]) -> None:
    """Let images await the captions of equal ones, as in the middle of a run."""
    store = open_store(str(output), StorageConfig())
    nothing = dict.fromkeys(["caption", "num_words", "logprob", "model"])
    waiting = {"status": "failed", "error_code": "awaits_original", "attempts": 0, **nothing}
    for number in list_parts(store, CAPTIONS):
        table, footer = read_captions_part(store, number)
        rows = [
            {**row, **(waiting if row["image_id"] in names else {})} for row in table.to_pylist()
        ]
        data, _ = encode_captions(
            pa.Table.from_pylist(rows, schema=table.schema),
            footer.num_bytes,
            footer.revision,
            run=footer.run,
        )
        store.write(part_key(CAPTIONS, number), data)


@pytest.mark.slow
@pytest.mark.parametrize("later", ["content", "off"])
def test_copies_whose_original_went_before_it_was_captioned_are_captioned(
    tmp_path: Path, later: str
) -> None:
    images, output = write_images(tmp_path / "images", SEEDS), tmp_path / "out"
    raycap.caption(images, output, config=config())
    await_again(output, {f"{number:02d}.png" for number, seed in enumerate(SEEDS) if seed < 3})
    parts_of(output)[0].unlink()  # as if the run had died before it committed the first part
    (output / "summary.json").unlink()
    for number in (0, 1):
        (images / f"{number:02d}.png").unlink()
    settings = config(engine={"deduplicate": later})
    summary = raycap.caption(images, output, config=settings)
    assert summary.failed == {"not_found": 2}
    captions = captions_of(output)
    expected = tmp_path / "each"
    raycap.caption(images, expected, config=config(engine={"deduplicate": "off"}))
    assert captions_of(expected).items() <= captions.items()
    assert verify(output).is_complete
    if later == "content":
        assert summary.num_copies == 11 - 5


@pytest.mark.slow
def test_two_streams_ask_about_each_distinct_image_once(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", SEEDS * 3), tmp_path / "out"
    streams = config(engine={"num_streams": 2, "num_actors": 2})
    summary = raycap.caption(images, output, config=streams)
    assert (summary.num_ok, summary.num_copies) == (39, 34)
    captions = captions_of(output)
    by_seed = {(SEEDS * 3)[int(name[:2])]: text for name, text in captions.items()}
    assert all(text == by_seed[(SEEDS * 3)[int(name[:2])]] for name, text in captions.items())
    assert num_calls(rows_of(output)) == 5
    assert verify(output).is_complete


def texts(output: Path, prompt: str) -> list[str | None]:
    return [row[prompt] and row[prompt]["caption"] for row in rows_of(output)]


@pytest.mark.slow
def test_each_named_prompt_is_asked_once_about_each_distinct_image(tmp_path: Path) -> None:
    images, output = write_images(tmp_path / "images", SEEDS), tmp_path / "out"
    one, two = {"short": "In short:"}, {"short": "In short:", "tags": "Tags:"}
    raycap.caption(images, output, config=config(prompts=one))
    first = texts(output, "short")
    for number, seed in enumerate([0, 9], start=20):
        write_image(images / f"{number}.png", seed)
    summary = raycap.caption(images, output, config=config(prompts=two))
    assert summary.num_ok == 15
    off = config(prompts=two, engine={"deduplicate": "off"})
    raycap.caption(images, tmp_path / "each", config=off)
    for name in two:
        assert texts(output, name) == texts(tmp_path / "each", name)
    assert texts(output, "short")[:13] == first
    assert verify(output).is_complete


@pytest.mark.slow
def test_copies_get_the_captions_of_the_second_model_without_asking_it(tmp_path: Path) -> None:
    (tmp_path / "larger").mkdir()
    write_json(tmp_path / "larger" / "raycap.json", {"kind": "stub"})
    cascade = {"model": str(tmp_path / "larger"), "below": -1.5, "prompt": "larger:"}
    images = write_images(tmp_path / "images", SEEDS)
    off = config(cascade=cascade, engine={"deduplicate": "off"})
    each = raycap.caption(images, tmp_path / "each", config=off)
    summary = raycap.caption(images, tmp_path / "out", config=config(cascade=cascade))
    assert captions_of(tmp_path / "out") == captions_of(tmp_path / "each")
    weak = [row for row in rows_of(tmp_path / "each") if row["model"] == cascade["model"]]
    assert 0 < len(weak) < len(SEEDS)
    assert each.cascade["num_images"] == len(weak)
    assert summary.cascade["num_images"] == len({row["digest"] for row in weak})
    assert summary.num_copies == 8
    again = raycap.caption(images, tmp_path / "out", config=config(cascade=cascade))
    assert (again.num_captioned, again.cascade) == (0, summary.cascade)
    assert verify(tmp_path / "out").is_complete
