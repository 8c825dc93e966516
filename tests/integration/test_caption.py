"""Bulk captioning on a local Ray: every image one row, from folders, again and again."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import raycap
from raycap import schema
from raycap.captioning.loading import RunSpec
from raycap.captioning.stream import Resources, _stages
from raycap.captioning.verify import verify
from raycap.config import ActorRange, CaptionConfig
from raycap.config.loading import validate_config
from raycap.demo.scenes import write_scenes
from raycap.errors import ConfigError, ModelError, RunConflict, StorageError
from raycap.images.decoding import decode
from raycap.models.base import BatchRange
from raycap.models.device import fast_on_cpu
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.progress import Progress
from raycap.results.captioning import Summary
from raycap.storage.local import LocalStore
from tests.conftest import MakeJpeg
from tests.support.faulty_http import Reply, faulty_server

pytestmark = pytest.mark.usefixtures("ray_session")


def config(**sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    return validate_config(CaptionConfig, sections)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All rows of an output, in part order."""
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "captions").iterdir()):
        rows += pq.read_table(part).to_pylist()
    return rows


def write_images(folder: Path, count: int, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg")


def write_mixed(folder: Path) -> None:
    """Write images of several kinds, broken files, a file that is no image, in a tree."""
    write_images(folder / "a", 10)
    write_images(folder / "b" / "deep", 7, start=50)
    (folder / "a" / "empty.jpg").write_bytes(b"")
    (folder / "a" / "page.jpg").write_bytes(b"<html>not an image</html>")
    whole = (folder / "a" / "00000.jpg").read_bytes()
    (folder / "b" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "no-suffix").write_bytes(whole)
    (folder / "notes.txt").write_text("not an image, by its name")
    (folder / ".hidden.jpg").write_bytes(whole)


@dataclass(frozen=True)
class Finished:
    """A run that went undisturbed: no test writes to its output."""

    source: Path
    output: Path
    config: CaptionConfig
    summary: Summary
    seen: list[Progress]

    def copy(self, folder: Path) -> Path:
        """Copy the output, for a test that changes it."""
        return Path(shutil.copytree(self.output, folder / "out"))


@pytest.fixture(scope="module")
def finished(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    del ray_session
    folder = tmp_path_factory.mktemp("finished")
    source, output, settings = folder / "photos", folder / "out", config(engine={"part_size": 4})
    write_mixed(source)
    seen: list[Progress] = []
    summary = raycap.caption(source, output, config=settings, on_progress=seen.append)
    return Finished(source, output, settings, summary, seen)


def test_every_image_of_a_tree_gets_exactly_one_row_in_key_order(finished: Finished) -> None:
    rows, summary = rows_of(finished.output), finished.summary
    expected = sorted(
        str(path.relative_to(finished.source))
        for path in finished.source.rglob("*")
        if path.is_file() and path.name not in ("notes.txt", ".hidden.jpg")
    )
    assert [row["image_id"] for row in rows] == expected
    failed = {row["image_id"]: row["error_code"] for row in rows if row["status"] == "failed"}
    assert failed == {
        "a/empty.jpg": "empty",
        "a/page.jpg": "unsupported_format",
        "b/cut.jpg": "decode_failed",
    }
    ok = next(row for row in rows if row["status"] == "ok")
    assert (ok["width_px"], ok["height_px"], ok["attempts"]) == (32, 24, 1)
    assert ok["num_words"] == len(ok["caption"].split())
    assert (summary.num_images, summary.num_ok, summary.num_failed) == (21, 18, 3)
    assert summary.skipped == {".txt": 1, "hidden": 1}
    assert json.loads((finished.output / "summary.json").read_text())["failed"] == summary.failed
    assert finished.seen[-1].num_done == finished.seen[-1].num_total == 21
    assert verify(finished.output).is_complete


def test_the_pipeline_says_what_the_model_says_whatever_batches_actors_and_parts(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "scenes"
    write_scenes(folder, 16, seed=11)
    settings = config(
        model={"name": "demo"},
        generation={"num_beams": 4, "num_captions": 3},
        engine={"batch_size": 3, "part_size": 7, "num_actors": "2", "fetch_threads": 1},
    )
    raycap.caption(folder, tmp_path / "out", config=settings)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 16
    # The reference: every image alone, without Ray.
    source = find_model("demo")
    captioner = load_captioner(source, settings.model, settings.generation)
    for row in rows:
        image = decode(Path(row["uri"]).read_bytes(), source.target, settings.image)
        alone = captioner.caption(image.pixels[None])[0]
        assert row["caption"] == alone.text
        assert row["logprob"] == pytest.approx(alone.logprob, abs=1e-4)
        others = [other["caption"] for other in row["alternatives"]]
        assert others == [other.text for other in alone.alternatives]
        assert len(others) == 2


def test_a_run_records_what_fast_means_and_keeps_to_it(tmp_path: Path) -> None:
    folder, output = tmp_path / "scenes", tmp_path / "out"
    write_scenes(folder, 3, seed=11)
    fast = config(model={"name": "demo", "precision": "fast"})
    raycap.caption(folder, output, config=fast)

    model = json.loads((output / "run.json").read_text())["fingerprint"]["model"]
    chosen = model["fast_on_cpu"]
    assert (model["precision"], chosen) == ("fast", fast_on_cpu(has_int8=True))
    other = "fp32" if chosen != "fp32" else "bf16"
    for meant, is_same in ((chosen, True), (other, False)):
        named = {"name": "demo", "precision": "fast", "fast_on_cpu": meant}
        settings = config(model=named)
        with nullcontext() if is_same else pytest.raises(RunConflict):
            assert raycap.caption(folder, output, config=settings).num_captioned == 0
    precision = "auto" if torch.accelerator.is_available() else chosen
    named = {"name": "demo", "precision": precision}
    source = find_model("demo")
    captioner = load_captioner(source, config(model=named).model, fast.generation)
    for row in rows_of(output):
        image = decode(Path(row["uri"]).read_bytes(), source.target, fast.image)
        assert row["caption"] == captioner.caption(image.pixels[None])[0].text


def test_the_same_command_again_reads_nothing_and_keeps_every_file(finished: Finished) -> None:
    before = {path: path.read_bytes() for path in finished.output.rglob("*") if path.is_file()}
    summary = raycap.caption(finished.source, finished.output, config=finished.config)
    assert summary.num_captioned == 0
    for name in ("lock.json", "progress.json"):  # which every run writes
        del before[finished.output / name]
    assert before == {path: path.read_bytes() for path in before}


def test_lost_and_damaged_parts_are_found_and_answered_again_and_no_other(
    finished: Finished, tmp_path: Path
) -> None:
    output = finished.copy(tmp_path)
    whole = rows_of(output)
    parts = sorted((output / "captions").iterdir())
    kept = {path: path.stat().st_mtime_ns for path in (parts[0], *parts[3:])}
    parts[1].unlink()
    (output / "summary.json").unlink()
    assert (verify(output).num_pending, verify(output).is_sound) == (4, True)
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    found = verify(output)
    assert not found.is_sound
    assert "part-000002.parquet" in found.problems[0]
    summary = raycap.caption(finished.source, output, config=finished.config)
    assert (summary.num_captioned, summary.num_images) == (8, 21)
    assert rows_of(output) == whole
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert verify(output).is_complete


def test_rows_moved_between_parts_are_found(finished: Finished, tmp_path: Path) -> None:
    output = finished.copy(tmp_path)
    first, second = sorted((output / "captions").iterdir())[:2]
    second.write_bytes(first.read_bytes())
    found = verify(output)
    assert found.num_problems == 1
    assert "part-000001" in found.problems[0]


def test_a_limit_takes_the_first_images_and_a_later_run_new_and_changed_ones_and_the_rest(
    tmp_path: Path,
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    write_images(folder, 10)
    settings = config(engine={"part_size": 4})
    assert raycap.caption(folder, output, config=settings, limit=8).num_images == 8
    before = {row["image_id"]: row for row in rows_of(output)}
    assert list(before) == [f"{n:05d}.jpg" for n in range(8)]
    write_images(folder, 3, start=90)
    Image.new("RGB", (50, 40), "red").save(folder / "00005.jpg")
    summary = raycap.caption(folder, output, config=settings)
    after = {row["image_id"]: row for row in rows_of(output)}
    assert summary.num_captioned == 6
    assert summary.num_images == len(rows_of(output)) == len(after) == 13
    assert after["00005.jpg"]["caption"] != before["00005.jpg"]["caption"]
    assert after["00005.jpg"]["width_px"] == 50
    unchanged = before.keys() - {"00005.jpg"}
    assert {i: before[i] for i in unchanged} == {i: after[i] for i in unchanged}
    assert verify(output).is_complete


def test_other_settings_and_another_source_are_refused_with_the_difference(
    finished: Finished, tmp_path: Path
) -> None:
    other = config(engine={"part_size": 4}, generation={"num_beams": 1})
    with pytest.raises(RunConflict, match=r"\+ generation\.num_beams = 1") as conflict:
        raycap.caption(finished.source, finished.output, config=other)
    assert "- generation.num_beams = 3" in str(conflict.value)
    write_images(tmp_path / "other", 2)
    with pytest.raises(RunConflict, match="source = "):
        raycap.caption(tmp_path / "other", finished.output, config=finished.config)


def test_a_second_writer_is_refused_while_the_first_lives(finished: Finished) -> None:
    with LocalStore(finished.output).lock("lock.json"), pytest.raises(RunConflict):
        raycap.caption(finished.source, finished.output, config=finished.config)
    again = raycap.caption(finished.source, finished.output, config=finished.config)
    assert again.num_ok == finished.summary.num_ok


def test_a_source_without_images_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"1 \.txt"):
        raycap.caption(folder, tmp_path / "out", config=config())


def test_an_error_of_a_worker_reaches_the_caller_as_it_was_raised(tmp_path: Path) -> None:
    model = tmp_path / "model"
    found = find_model("demo")
    assert found.folder is not None
    model.mkdir()
    for file in Path(found.folder).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    folder = tmp_path / "photos"
    write_images(folder, 4)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=str(model)):
        raycap.caption(folder, tmp_path / "out", config=config(model={"name": str(model)}))


def test_the_real_photos_are_captioned_whole(real_photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = raycap.caption(real_photos, output, config=config())
    assert (summary.num_images, summary.num_ok) == (152, 152)
    assert len({row["caption"] for row in rows_of(output)}) > 100
    assert verify(output).is_complete
    assert pa.unify_schemas([pq.read_schema(p) for p in (output / "captions").iterdir()])


@pytest.mark.usefixtures("ray_session")
def test_ray_data_takes_stages_that_ask_for_gpus() -> None:
    """It refuses some settings with GPUs only; nothing is run here, as there may be none."""
    spec = RunSpec(
        output="unused",
        config=CaptionConfig(),
        model=find_model("stub"),
        batches=BatchRange(least=16, most=128),
        num_lanes=2,
        torch_threads=1,
    )
    wanted = Resources(actors=ActorRange(min=1, max=8), gpus_per_actor=1.0, cpus_per_actor=1.0)

    stages = _stages(pa.table([[0], [False]], schema=schema.WORK), spec, wanted)

    assert "CaptionActor" in repr(stages)


def test_a_run_goes_on_where_its_source_has_moved_to(tmp_path: Path) -> None:
    write_images(tmp_path / "before", 6)
    output = tmp_path / "out"
    raycap.caption(tmp_path / "before", output, config=config(), limit=4)
    answered = rows_of(output)
    shutil.move(tmp_path / "before", tmp_path / "after")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunConflict, match="--source-moved-from"):
        raycap.caption(tmp_path / "after", output, config=config())
    with pytest.raises(RunConflict):
        raycap.caption(
            tmp_path / "after", output, config=config(), source_moved_from=tmp_path / "other"
        )
    for moved_from in (tmp_path / "before", tmp_path / "before", None):
        summary = raycap.caption(
            tmp_path / "after", output, config=config(), source_moved_from=moved_from
        )
        assert (summary.num_images, summary.num_ok) == (6, 6)
    rows = rows_of(output)
    assert rows[:4] == answered
    assert {row[schema.URI] for row in rows[4:]} == {
        str(tmp_path / "after" / f"{number:05d}.jpg") for number in (4, 5)
    }
    manifest = pq.read_table(output / "manifest" / "part-000000.parquet")
    assert all(uri.startswith(str(tmp_path / "after")) for uri in manifest["uri"].to_pylist())
    assert verify(output).is_complete
    shutil.copytree(tmp_path / "after", tmp_path / "before")
    with pytest.raises(RunConflict, match="--source-moved-from"):
        raycap.caption(tmp_path / "before", output, config=config())


def test_images_that_may_not_be_read_are_rows_unless_all_of_them_are(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    with faulty_server() as server:
        names = [f"/{number}.jpg" for number in range(4)]
        server.pages |= dict.fromkeys(names, Reply(status=403))
        listed, output = tmp_path / "images.txt", tmp_path / "out"
        listed.write_text("".join(f"{server.url}{name}\n" for name in names))
        settings = config(engine={"max_failed_share": 1, "part_size": 2})
        with pytest.raises(StorageError, match=r"4 images.*engine\.max_refused"):
            raycap.caption(listed, output, config=settings)
        assert not list((output / "captions").glob("*.parquet"))

        server.pages |= dict.fromkeys(names[:-1], Reply(body=make_jpeg()))
        summary = raycap.caption(listed, output, config=settings)
        assert (summary.num_ok, summary.failed) == (3, {"forbidden": 1})

        server.pages[names[-1]] = Reply(body=make_jpeg())
        assert raycap.caption(listed, output, config=settings, retry_failed=True).num_captioned == 0
        summary = raycap.caption(listed, output, config=settings, retry_failed=["forbidden"])
        assert (summary.num_captioned, summary.num_ok, summary.failed) == (1, 4, {})
    assert verify(output).is_complete
