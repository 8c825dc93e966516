"""Evaluations spread over Ray: what one process gives, to the last bit, whatever dies midway."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.config import StorageConfig
from raycap.errors import DatasetError
from raycap.evaluation import passes
from raycap.progress import Progress
from raycap.results.evaluation import Evaluation, read_evaluation
from raycap.storage.stores import open_store
from tests.conftest import S3
from tests.support.dataset_samples import scene_dataset
from tests.support.evaluation_samples import (
    run,
    scores_of,
    skipped_of,
    values_of,
    without_time,
    write_corpus,
)
from tests.support.tiny_clip import save_clip

pytestmark = pytest.mark.usefixtures("ray_session")

SPREAD = {"spread_images": 0}
WITH_METEOR: dict[str, Any] = {"external": {}}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Score few images at a time, so that several actors have several chunks each."""
    monkeypatch.setattr(passes, "_CHUNK_IMAGES", 10)
    monkeypatch.setattr(passes, "_CLIP_CHUNK_IMAGES", 5)


def assert_identical(
    spread: Evaluation, alone: Evaluation, folder: Path, names: tuple[str, str]
) -> None:
    assert without_time(spread) == without_time(alone)
    for number in range(len(alone.systems)):
        one, other = (scores_of(folder / name, number) for name in names)
        assert one.equals(other)


def scorers() -> list[psutil.Process]:
    """Find the actors that score."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "Scorer" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_scorers(killed: dict[str, int]) -> Callable[[Progress], None]:
    """Give what kills every actor once in each pass that `killed` names, and counts them there."""

    def kill(progress: Progress) -> None:
        if killed.get(progress.stage) == 0:
            for process in scorers():
                killed[progress.stage] += 1
                process.kill()

    return kill


def test_actors_give_what_one_process_gives_to_the_last_bit(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 95, num_systems=2)
    spread = run(systems, references, settings=SPREAD, output=tmp_path / "spread")
    alone = run(systems, references, output=tmp_path / "alone")
    assert_identical(spread, alone, tmp_path, ("spread", "alone"))


@pytest.mark.slow
def test_an_evaluation_outlives_its_workers(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 150)
    killed = {"references": 0, "scoring": 0}
    kill = kill_scorers(killed)
    spread = run(systems, references, settings=SPREAD, output=tmp_path / "spread", on_progress=kill)
    assert min(killed.values()) > 1
    alone = run(systems, references, output=tmp_path / "alone")
    assert_identical(spread, alone, tmp_path, ("spread", "alone"))


@pytest.mark.slow
def test_meteor_is_spread_as_well_and_its_programs_end_with_it(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 15)
    settings = SPREAD | WITH_METEOR
    spread = run(systems, references, settings=settings, output=tmp_path / "spread")
    alone = run(systems, references, settings=WITH_METEOR, output=tmp_path / "alone")
    assert schema.METEOR in values_of(spread)
    assert_identical(spread, alone, tmp_path, ("spread", "alone"))
    children = psutil.Process().children(recursive=True)
    _, left = psutil.wait_procs([c for c in children if c.name() == "java"], timeout=30)
    assert left == []


def test_a_mistake_that_a_worker_finds_is_told_in_one_line(tmp_path: Path) -> None:
    systems, references = write_corpus(tmp_path, 25)
    lines = Path(systems[0]).read_text().splitlines()
    Path(systems[0]).write_text("\n".join(lines[:20]))
    with pytest.raises(DatasetError, match=r"system-0 .* 5 "):
        run(systems, references, settings=SPREAD)


@pytest.mark.slow
def test_evaluations_are_read_from_buckets_and_written_to_them(tmp_path: Path, s3: S3) -> None:
    systems, references = write_corpus(tmp_path, 25)
    for path in (*systems, references):
        s3.put(Path(path).name, Path(path).read_bytes())
    captions = [f"{s3.uri}/{Path(path).name}" for path in systems]
    written = f"{s3.uri}/references.jsonl"
    run(captions, written, output=f"{s3.uri}/ev", settings=None)
    found = run(captions, written, output=f"{s3.uri}/ev", settings=SPREAD)  # replaces the first
    assert read_evaluation(open_store(f"{s3.uri}/ev", StorageConfig())) == found
    local = run(systems, references, output=tmp_path / "out")
    assert found.systems == [replace(system, source=captions[0]) for system in local.systems]
    scores = scores_of(f"{s3.uri}/ev")
    assert scores.drop("uri").equals(scores_of(tmp_path / "out").drop("uri"))


# CLIPScore


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    return {"external": {"meteor": False, "clip_model": str(folder)}}


def write_scene_captions(folder: Path) -> list[str]:
    """Caption the scenes of a dataset by two systems."""
    paths = []
    for number, words in enumerate(("red circle {}", "{} squares")):
        rows = [
            {"image_id": path, "caption": words.format(at)}
            for at, path in enumerate(scene_names(folder))
        ]
        paths.append(folder / f"system-{number}.jsonl")
        paths[-1].write_text("\n".join(map(json.dumps, rows)))
    return [str(path) for path in paths]


def scene_names(folder: Path) -> list[str]:
    tables = [pq.read_table(path) for path in (folder / "dataset").rglob("part-*.parquet")]
    names = [name for table in tables for name in table[schema.IMAGE_ID].to_pylist()]
    return sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "referenced"])
def test_clip_scores_the_images_of_a_dataset_wherever_they_are(
    tmp_path: Path, clip: dict[str, Any], embedded: bool
) -> None:
    # More chunks than the four CPUs: the scorers would take all, and leave none to CLIP's workers.
    dataset = scene_dataset(tmp_path, 45 if embedded else 24, embedded=embedded)
    systems = write_scene_captions(tmp_path)
    spread = run(systems, dataset, settings=clip | SPREAD, output=tmp_path / "spread")
    alone = run(systems, dataset, settings=clip, output=tmp_path / "alone")
    assert {schema.CLIP_SCORE, schema.REF_CLIP_SCORE}.isdisjoint(skipped_of(spread))
    for number in (0, 1):
        table = scores_of(tmp_path / "spread", number)
        other = scores_of(tmp_path / "alone", number)
        for name in (schema.CLIP_SCORE, schema.REF_CLIP_SCORE):
            scores = table[name].to_pylist()
            assert len({round(score, 6) for score in scores}) > 12
            assert scores == pytest.approx(other[name].to_pylist(), abs=1e-5)
            mean = sum(scores) / len(scores)
            assert values_of(spread, number)[name] == pytest.approx(mean)
            assert values_of(alone, number)[name] == pytest.approx(mean, abs=1e-5)
    assert {"clip_score", "ref_clip_score"} <= {item.metric for item in spread.comparisons}


def test_images_that_cannot_be_read_have_no_clip_score_and_do_not_count(
    tmp_path: Path, clip: dict[str, Any]
) -> None:
    dataset = scene_dataset(tmp_path, 12, embedded=False)
    systems = write_scene_captions(tmp_path)
    names = scene_names(tmp_path)
    (tmp_path / "images" / names[3]).write_bytes(b"broken")
    found = run(systems[:1], dataset, settings=clip, output=tmp_path / "out")
    table = scores_of(tmp_path / "out")
    scores = dict(zip(names, table[schema.CLIP_SCORE].to_pylist(), strict=True))
    assert scores.pop(names[3]) is None
    assert None not in scores.values()
    assert values_of(found)[schema.CLIP_SCORE] == pytest.approx(sum(scores.values()) / 11)
    assert table[schema.CIDER_D].null_count == 0
