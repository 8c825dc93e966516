"""A small study on a local Ray: systems that are trained, calibrated and taken as they are."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from raycap.config import StudyConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, DatasetError, RunConflict, RunStopped
from raycap.experiments.study.planning import SYSTEMS
from raycap.experiments.study.run import study
from raycap.results.status import Status
from raycap.results.study import (
    Study,
    StudyProgress,
)
from tests.support.dataset_samples import dataset_row, scene_dataset, write_dataset

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

_DIVERGES = 1e30


def config(**sections: Any) -> StudyConfig:
    """One short epoch each; the hybrid diverges, as its learning rate is absurd."""
    training = {
        "architecture": {"encoder": "small-cnn", "image_px": 32, "width": 32, "num_layers": 1},
        "train": {"num_epochs": 1, "batch_size": 8},
        "validation": {"num_images": 4},
        "generation": {"num_beams": 1, "max_new_tokens": 12},
        "engine": {"torch_threads": 1},
    }
    defaults = {
        "pretrained": "demo",
        "study": {
            "systems": ["cnn-lstm", "hybrid", "blip-pretrained", "blip-calibrated"],
            "subsets": [0.5, 1.0],
            "subsets_without_augmentation": [],
        },
        "training": training,
        "kinds": {"hybrid": {"train": {"lr": _DIVERGES}, "optimizer": {"clip_norm": None}}},
        "calibration": {"num_images": 4, "search": {"num_min_lengths": 2, "ngram_sizes": [0]}},
        "evaluation": {"external": {"meteor": False}, "bootstrap": {"num_resamples": 50}},
    }
    return validate_config(StudyConfig, {**defaults, **sections})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return scene_dataset(tmp_path_factory.mktemp("scenes"), 40)


@pytest.fixture(scope="module")
def interrupted(
    ray_session: None, dataset: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Stop a study as its first system is over; return its output, and what was told."""
    del ray_session
    output = tmp_path_factory.mktemp("study") / "out"

    def stop(progress: StudyProgress) -> None:
        if progress.system is not None:
            raise KeyboardInterrupt

    with pytest.raises(RunStopped) as caught:
        study(dataset, output, config=config(), on_progress=stop)
    return output, str(caught.value)


@pytest.fixture(scope="module")
def found(interrupted: tuple[Path, str], dataset: str) -> Study:
    """Continue it to the end."""
    return study(dataset, interrupted[0], config=config())


def test_an_interrupt_says_what_is_left_and_how_to_go_on(interrupted: tuple[Path, str]) -> None:
    output, told = interrupted
    assert "of 6 systems" in told
    assert str(output) in told
    assert len(list(output.glob("systems/*/system.json"))) >= 1
    assert not (output / "report.html").exists()


def test_what_was_over_is_not_made_again(interrupted: tuple[Path, str], found: Study) -> None:
    first = json.loads((interrupted[0] / "systems/cnn-lstm/system.json").read_text())
    assert first["status"] == "finished"
    assert found.system("cnn-lstm").training is not None
    assert found.system("cnn-lstm").wall_s == pytest.approx(
        first["training"]["wall_s"] + first["captioning_wall_s"], abs=0.02
    )


def test_every_system_has_its_figures_and_a_failed_one_its_reason(found: Study) -> None:
    assert {it.name: it.status for it in found.systems} == {
        "cnn-lstm": Status.FINISHED,
        "cnn-lstm-50": Status.FINISHED,
        "hybrid": Status.FAILED,
        "hybrid-50": Status.FAILED,
        "blip-pretrained": Status.FINISHED,
        "blip-calibrated": Status.FINISHED,
    }
    assert "not finite" in found.system("hybrid").reason or "NaN" in found.system("hybrid").reason
    whole, half = found.system("cnn-lstm").training, found.system("cnn-lstm-50").training
    assert whole is not None
    assert half is not None
    assert 0 < half.num_images < whole.num_images == 32
    assert whole.peak_memory_bytes > 2**26
    for system in found.systems:
        if system.status is Status.FINISHED:
            assert system.scores["cider_d"].low is not None
            assert system.scores["mean_words"].value > 0
            assert system.captioning_images_per_s > 0


def test_the_length_of_the_calibrated_one_is_nearer_to_peoples(found: Study) -> None:
    before, after = (
        abs(found.system(name).scores["length_gap"].value)
        for name in ("blip-pretrained", "blip-calibrated")
    )
    assert found.num_images == 4
    assert after < before


def test_the_report_and_the_summary_tell_of_all(found: Study) -> None:
    page = Path(found.output, "report.html").read_text()
    summary = Path(found.output, "summary.md").read_text()
    for system in found.systems:
        assert system.name in page
        assert system.name in summary
    assert found.best == "blip-calibrated"
    assert summary.splitlines()[0] == "# Captioners compared on 4 images"


def test_the_same_command_again_makes_nothing(found: Study, dataset: str) -> None:
    files = {path: path.stat().st_mtime_ns for path in Path(found.output).glob("systems/*/*/*")}
    again = study(dataset, found.output, config=config())
    assert again.systems == found.systems
    assert files == {path: path.stat().st_mtime_ns for path in files}


def test_another_study_in_the_same_output_is_refused(found: Study, dataset: str) -> None:
    other = config(training={"train": {"num_epochs": 2}})
    with pytest.raises(RunConflict, match=r"training\.train\.num_epochs = 2"):
        study(dataset, found.output, config=other)


def test_a_system_may_be_left_out_later(found: Study, dataset: str) -> None:
    smaller = config(study={"systems": ["blip-pretrained", "blip-calibrated"]})
    again = study(dataset, found.output, config=smaller)
    assert [it.name for it in again.systems] == ["blip-pretrained", "blip-calibrated"]
    assert os.path.isdir(Path(found.output, SYSTEMS.folder_of("cnn-lstm")))


def test_a_dataset_without_a_test_split_is_refused(tmp_path: Path) -> None:
    rows = [dataset_row(f"{i}.jpg", "train", ["a cat sits"]) for i in range(4)]
    alone = write_dataset(tmp_path / "set", rows, [], embedded=False)
    with pytest.raises(DatasetError) as caught:
        study(alone, tmp_path / "out", config=config())
    assert caught.value.setting == "split.validation"


def test_a_bucket_is_refused_as_output(dataset: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(dataset, "s3://bucket/study", config=config())
    assert caught.value.uri == "s3://bucket/study"
