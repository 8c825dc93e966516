"""Calibrating the demo model on a local Ray, on scenes with captions twice as long as its own."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import raycap
from raycap import schema
from raycap.config import CalibrateConfig, CaptionConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import open_dataset
from raycap.errors import ConfigError, DatasetError, ModelError, RunConflict, RunStopped
from raycap.experiments.calibration.images import choose_images
from raycap.experiments.calibration.run import calibrate
from raycap.experiments.calibration.trials import ScoredReferences, score_trial
from raycap.models.base import ModelSource
from raycap.models.sources import find_model
from raycap.progress import Progress
from raycap.results.calibration import CALIBRATION, TRIALS, Calibration
from tests.support.dataset_samples import scene_dataset

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

NUM_IMAGES = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Scenes whose images lie in a folder `images` beside the dataset."""
    return scene_dataset(tmp_path_factory.mktemp("scenes"), 40, embedded=False)


@pytest.fixture(scope="module")
def calibrated(
    ray_session: None, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> Calibration:
    del ray_session
    output = tmp_path_factory.mktemp("calibrated") / "model"
    search = {"length_penalties": [2.0], "ngram_sizes": [3]}
    return calibrate("demo", dataset, output, config=config(search=search))


def config(**sections: Any) -> CalibrateConfig:
    defaults = {"split": "train", "num_images": NUM_IMAGES, "engine": {"torch_threads": 1}}
    return validate_config(CalibrateConfig, {**defaults, **sections})


def captions_of(output: Path) -> dict[str, str]:
    table = pq.read_table(output / "captions")
    return dict(
        zip(table[schema.IMAGE_ID].to_pylist(), table[schema.CAPTION].to_pylist(), strict=True)
    )


def generation_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "run.json").read_text())["fingerprint"]
    return dict(found["generation"])


def test_the_length_gap_is_closed_without_losing_cider(calibrated: Calibration) -> None:
    start, chosen = calibrated.start, calibrated.chosen
    assert calibrated.images.num_images == NUM_IMAGES
    assert start == calibrated.trials[0]
    assert start.length_gap < -8  # 8 words, where people wrote 17
    assert abs(chosen.length_gap) <= 1.0
    assert chosen.cider_d > start.cider_d
    assert chosen.generation.min_new_tokens > start.generation.min_new_tokens
    assert 16 < calibrated.images.lengths.model_tokens < 19


def test_what_is_told_stands_in_the_model_that_is_written(calibrated: Calibration) -> None:
    folder = Path(calibrated.output)
    told = json.loads((folder / CALIBRATION).read_text())
    assert [trial["cider_d"] for trial in told["trials"]] == [
        trial.cider_d for trial in calibrated.trials
    ]
    assert told["chosen"]["generation"] == calibrated.chosen.generation.model_dump(mode="json")
    source: ModelSource = find_model(str(folder))
    assert source.digest == find_model("demo").digest
    assert source.generation == calibrated.chosen.generation


def test_the_saved_model_captions_as_the_chosen_trial_did(
    calibrated: Calibration, dataset: str, tmp_path: Path
) -> None:
    images = Path(dataset).parent / "images"
    summary = raycap.caption(images, tmp_path / "out", model=calibrated.output)
    assert summary.num_failed == 0
    chosen = choose_images(open_dataset(dataset, StorageConfig()), "train", NUM_IMAGES)
    captions = captions_of(tmp_path / "out")
    again = score_trial(
        calibrated.chosen.generation,
        [captions[image_id] for image_id in chosen],
        ScoredReferences.of(list(chosen.values())),
    )
    assert again == calibrated.chosen
    assert generation_of(tmp_path / "out") == calibrated.chosen.generation.model_dump(mode="json")


def test_what_the_user_sets_wins_over_the_saved_model_and_stands_in_the_run(
    calibrated: Calibration, dataset: str, tmp_path: Path
) -> None:
    images = Path(dataset).parent / "images"
    asked = validate_config(
        CaptionConfig, {"generation": {"min_new_tokens": 0, "length_penalty": 1.0}}
    )
    raycap.caption(images, tmp_path / "short", config=asked, model=calibrated.output, limit=8)
    expected = calibrated.chosen.generation.model_dump(mode="json")
    assert generation_of(tmp_path / "short") == {
        **expected,
        "min_new_tokens": 0,
        "length_penalty": 1.0,
    }
    assert all(len(text.split()) <= 9 for text in captions_of(tmp_path / "short").values())


def test_an_interrupted_calibration_goes_on_and_another_choice_needs_no_captioning(
    calibrated: Calibration, dataset: str, tmp_path: Path
) -> None:
    few = {"num_min_lengths": 3, "length_penalties": [2.0], "ngram_sizes": [3]}

    def interrupt(progress: Progress) -> None:
        if progress.num_done > 2 * NUM_IMAGES:
            raise KeyboardInterrupt

    output = tmp_path / "model"
    with pytest.raises(RunStopped, match=r"\b2 settings .*model;"):
        calibrate("demo", dataset, output, config=config(search=few), on_progress=interrupt)
    assert not (output / CALIBRATION).exists()
    seen: list[Progress] = []
    done = calibrate("demo", dataset, output, config=config(search=few), on_progress=seen.append)
    assert min(progress.num_done for progress in seen) > 2 * NUM_IMAGES
    assert seen[-1].num_done == seen[-1].num_total == len(done.trials) * NUM_IMAGES
    # The third, which was interrupted, is as where nothing was.
    known = {trial.generation: trial for trial in calibrated.trials}
    assert done.trials[2] == known[done.trials[2].generation]

    seen.clear()
    other = config(search=few, closed_gap=100.0)
    again = calibrate("demo", dataset, output, config=other, on_progress=seen.append)
    assert seen == []
    assert again.trials == done.trials
    assert again.chosen == max(again.trials, key=lambda trial: trial.cider_d)
    assert find_model(again.output).generation == again.chosen.generation


def test_a_calibrated_model_is_where_the_next_calibration_starts(
    calibrated: Calibration, dataset: str, tmp_path: Path
) -> None:
    search = {"num_min_lengths": 1, "length_penalties": [2.0], "ngram_sizes": [3]}
    again = calibrate(calibrated.output, dataset, tmp_path / "model", config=config(search=search))
    assert again.start.generation == calibrated.chosen.generation
    assert again.start.cider_d == calibrated.chosen.cider_d


def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = scene_dataset(tmp_path, 20, embedded=False)
    gone = sorted((tmp_path / "images").iterdir())[2:5]
    for path in gone:
        path.unlink()
    search = {"num_min_lengths": 1, "length_penalties": [1.0], "ngram_sizes": [0]}
    found = calibrate("demo", dataset, tmp_path / "model", config=config(search=search))
    assert (found.images.num_images, found.images.num_unreadable) == (13, 3)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="0 of 16 images"):
        calibrate("demo", dataset, tmp_path / "other", config=config())


def test_lengths_that_the_model_cannot_write_are_one_clear_line(
    dataset: str, tmp_path: Path
) -> None:
    settings = config(search={"max_length_ratios": [9.0]}, num_images=4)
    with pytest.raises(ModelError, match=r"max_new_tokens: .*or search.max_length_ratios"):
        calibrate("demo", dataset, tmp_path / "model", config=settings)


def test_a_model_that_hangs_ends_it_with_one_clear_line(dataset: str, tmp_path: Path) -> None:
    limits = config(engine={"torch_threads": 1, "hang_timeout_s": 0.001})
    with pytest.raises(RunStopped, match="ActorDiedError"):
        calibrate("demo", dataset, tmp_path / "out", config=limits)


def test_mistakes_are_one_clear_line(calibrated: Calibration, dataset: str, tmp_path: Path) -> None:
    def mistaken(
        error: type[Exception],
        match: str,
        model: str = "demo",
        where: str = dataset,
        output: str | Path = tmp_path / "new",
        **sections: Any,
    ) -> None:
        with pytest.raises(error, match=match):
            calibrate(model, where, output, config=config(**sections))

    mistaken(ConfigError, "stub: ", model="stub")
    mistaken(ConfigError, r"\./nowhere: ", model="./nowhere")
    mistaken(DatasetError, r"dataset\.json", where=str(tmp_path))
    mistaken(DatasetError, "'dev'", split="dev")
    mistaken(ConfigError, "s3://bucket/model: ", output="s3://bucket/model")
    mistaken(ConfigError, calibrated.output, calibrated.output, output=calibrated.output)
    mistaken(ConfigError, f"{Path(dataset).parent}: ", output=Path(dataset).parent)
    mistaken(RunConflict, "num_images = 12", output=calibrated.output, num_images=12)
    assert (Path(calibrated.output) / TRIALS).is_file()
