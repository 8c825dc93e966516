"""`train` on a local Ray: streamed, over two workers, from S3, after losses of all kinds."""

import json
import os
import signal
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from raycap.config import GenerationConfig, ModelConfig, StorageConfig, TrainConfig
from raycap.errors import ConfigError, DatasetError, RunConflict, RunStopped
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.results.training import Training, TrainingProgress
from raycap.runs.records import versions
from raycap.storage.stores import open_store
from raycap.training.resources import fit_resources
from raycap.training.run import train
from tests.conftest import S3
from tests.support.commandline import workers_named
from tests.support.tiny_dataset import write_dataset
from tests.support.training_run import TINY, tiny_models
from tests.support.training_stream import tiny_config

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(str(folder), "train:44", "validation:10")
    return folder


def run(dataset: object, output: object, config: TrainConfig, **options: Any) -> Training:
    options.setdefault("models", TINY)
    return train(str(dataset), str(output), config=config, **options)


def weights(output: object, name: str = "last") -> dict[str, torch.Tensor]:
    store = open_store(str(output), StorageConfig())
    return load(store.read(f"{name}/model.safetensors"))


def losses(found: Training) -> list[tuple[float, float, float]]:
    return [(r.train_loss, r.fitted_loss, r.validation_loss) for r in found.history]


def keys(output: str) -> set[str]:
    store = open_store(output, StorageConfig())
    return {key for page in store.list() for key in page["key"].to_pylist()}


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Any:
    """An undisturbed run, what it told, and its output."""
    del ray_session
    output = tmp_path_factory.mktemp("whole")
    seen: list[TrainingProgress] = []
    return run(dataset, output, CONFIG, on_progress=seen.append), seen, output


CONFIG = tiny_config(
    train={"num_epochs": 3, "batch_size": 8},
    architecture={"dropout": 0.2},
    engine={"shuffle_images": 16},
)
"""44 images: six steps an epoch."""


@pytest.mark.slow
def test_a_run_writes_its_models_history_and_record(whole: Any) -> None:
    found, seen, output = whole
    assert (found.num_images, found.num_steps, found.num_epochs) == (44, 18, 3)
    assert (found.end, found.global_batch, found.micro_batch) == ("finished", 8, 8)
    names = {key for key in keys(str(output)) if "/" not in key}
    assert names == {
        *("run.json", "config.json", "lock.json"),
        *("history.jsonl", "training.json", "augmentation.jpg"),
    }
    assert {path.name for path in output.iterdir() if path.is_dir()} == {
        *("model", "last"),
        "checkpoints",
    }
    told = json.loads((output / "training.json").read_text())
    assert told["last"]["validation_loss"] == found.last.validation_loss
    assert len(told["history"]) == 3
    kept = json.loads((output / "last/raycap.json").read_text())["training"]
    assert kept["config"]["train"]["lr"] == 0.01
    assert kept["dataset"]["num_images"] == 54
    assert kept["versions"] == versions()
    ends = [item.epoch_record for item in seen if item.epoch_record is not None]
    assert ends == found.history
    assert seen[-1].share == 1.0
    assert all(record.num_images == 44 for record in found.history)


@pytest.mark.slow
def test_a_higher_number_of_epochs_continues_a_finished_run(dataset: Path, tmp_path: Path) -> None:
    def config(num_epochs: int, **train_settings: Any) -> TrainConfig:
        settings = {"num_epochs": num_epochs, "batch_size": 8, **train_settings}
        return tiny_config(train=settings, engine={"shuffle_images": 16})

    first = run(dataset, tmp_path, config(1))
    longer = run(dataset, tmp_path, config(2, keep_checkpoint=False))
    assert longer.num_epochs == 2
    assert longer.history[0] == first.history[0]
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(RunConflict) as caught:
        run(dataset, tmp_path, config(3))
    assert caught.value.setting == "train.num_epochs"
    assert run(dataset, tmp_path, config(2)) == longer


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_and_another_one_is_refused(
    dataset: Path, whole: Any
) -> None:
    found, _, output = whole
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    seen: list[TrainingProgress] = []
    again = run(dataset, output, CONFIG, on_progress=seen.append)
    assert again == found
    assert not seen
    # How the work is spread may differ, as long as the steps stay the same.
    spread = {"batch_size": 4, "num_accumulated": 2}
    other = CONFIG.model_copy(
        update={
            "train": CONFIG.train.model_copy(update=spread),
            "engine": CONFIG.engine.model_copy(update={"num_workers": 2}),
        }
    )
    assert run(dataset, output, other) == found
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = tiny_config(train={"num_epochs": 3, "batch_size": 8, "lr": 0.02}, engine={})
    with pytest.raises(RunConflict) as caught:
        run(dataset, output, other)
    assert "- train.lr = 0.01\n  + train.lr = 0.02" in str(caught.value)


@pytest.mark.slow
def test_two_workers_one_of_which_is_lost_give_the_losses_of_one(tmp_path: Path) -> None:
    # One takes as many micro-batches one after the other: batch norm sees what two workers see.
    write_dataset(str(tmp_path / "set"), "train:48", "validation:10")
    found = []
    for name, num_workers, share in (
        ("one", 1, {"batch_size": 8, "num_accumulated": 2}),
        ("two", 2, {"batch_size": 4}),
    ):
        config = tiny_config(
            train={"num_epochs": 3, "checkpoint_every_s": 1e-6, **share},
            architecture={"dropout": 0.2},
            engine={"num_workers": num_workers},
        )
        on_progress = KillOnce() if name == "two" else None
        found.append(
            run(
                tmp_path / "set",
                tmp_path / name,
                config,
                models=tiny_models(delay_s=0.3 if on_progress else 0.0),
                on_progress=on_progress,
            )
        )
    one, two = found
    assert two.num_steps == one.num_steps == 18
    assert two.global_batch == one.global_batch == 8
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-4)
        # The running statistics, which validation uses, are those of the first worker's share.
        assert a[1:] == pytest.approx(b[1:], rel=0.05)


class KillOnce:
    """Kills a worker, once, in the second epoch."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def __call__(self, progress: TrainingProgress) -> None:
        if not self.killed and progress.epoch == 2 and progress.step >= 2:
            self.killed = kill_workers(1)


FRAGILE = CONFIG.model_copy(
    update={
        "train": CONFIG.train.model_copy(update={"checkpoint_every_s": 1e-6}),
        "engine": CONFIG.engine.model_copy(update={"max_failures": 1}),
    }
)
"""A run that writes a checkpoint at every step, and replaces one worker."""


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_the_result_is_the_same(
    dataset: Path, tmp_path: Path, whole: Any
) -> None:
    kill = KillOnce()
    found = run(dataset, tmp_path, FRAGILE, models=tiny_models(delay_s=0.3), on_progress=kill)
    assert kill.killed
    assert losses(found) == losses(whole[0])
    assert same(weights(tmp_path), weights(whole[2]))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kill_workers(most: int | None = None) -> list[int]:
    """Kill the processes of this session's workers as the kernel would, the first ones of them."""
    found = workers_named("RayTrainWorker", "LoneWorker")[:most]
    for process in found:
        process.kill()
    return [process.pid for process in found]


@pytest.mark.slow
def test_a_run_ends_when_workers_are_lost_too_often(dataset: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    with pytest.raises(RunStopped):
        run(
            dataset,
            tmp_path,
            FRAGILE,
            models=tiny_models(delay_s=0.3),
            on_progress=lambda _: killed.extend(kill_workers()),
        )
    assert len(killed) == 2


@pytest.mark.slow
def test_an_interrupt_stops_at_the_next_step_and_the_same_call_goes_on_also_in_a_bucket(
    s3: S3, whole: Any
) -> None:
    def on_progress(progress: TrainingProgress) -> None:
        if progress.epoch == 2 and not sent:
            sent.append(progress.step)
            os.kill(os.getpid(), signal.SIGINT)

    sent: list[int] = []
    dataset, output = f"{s3.uri}/set", f"{s3.uri}/run"
    write_dataset(dataset, "train:44", "validation:10")
    with pytest.raises(RunStopped):
        run(dataset, output, CONFIG, models=tiny_models(delay_s=0.4), on_progress=on_progress)
    assert "training.json" not in keys(output)
    assert "model/model.safetensors" in keys(output)
    found = run(dataset, output, CONFIG)
    assert losses(found) == losses(whole[0])
    assert same(weights(output), weights(whole[2]))
    assert {key.split("/")[0] for key in keys(output)} >= {"model", "last", "training.json"}
    assert len({key.split("/")[1] for key in keys(output) if key.startswith("checkpoints/s")}) == 1
    assert run(dataset, output, CONFIG) == found


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_on_all_workers_at_once(tmp_path: Path) -> None:
    sink = BytesIO()
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(sink, "PNG")
    write_dataset(str(tmp_path / "set"), "train:24", "validation:4", n000009=sink.getvalue())
    config = tiny_config(
        augment={"enabled": False}, train={"batch_size": 4}, engine={"num_workers": 2}
    )
    started = time.monotonic()
    with pytest.raises(RunStopped, match=r"step \d of epoch 1"):
        run(tmp_path / "set", tmp_path / "out", config)
    assert time.monotonic() - started < 100
    told = json.loads((tmp_path / "out/nonfinite.json").read_text())
    assert told["suspects"] == ["000009.png"]
    assert len(told["image_ids"]) == 8


def test_a_dataset_without_validation_and_a_folder_in_use_are_refused(
    dataset: Path, tmp_path: Path
) -> None:
    write_dataset(str(tmp_path / "set"), "train:8")
    with pytest.raises(DatasetError) as caught:
        run(tmp_path / "set", tmp_path / "out", tiny_config())
    assert caught.value.setting == "split.validation"
    with pytest.raises(ConfigError) as refused:
        run(dataset, dataset, tiny_config())
    assert refused.value.uri == str(dataset)


def test_more_workers_than_the_cluster_has_room_for_do_not_wait_for_ever(
    dataset: Path, tmp_path: Path
) -> None:
    del dataset, tmp_path
    engine = tiny_config(engine={"num_workers": 64}).engine
    with pytest.raises(ConfigError, match=r"65\.25 CPUs.*\b4\b") as caught:
        fit_resources(engine, is_fixed=True)
    assert caught.value.setting == "engine.num_workers"


@pytest.mark.slow
def test_a_real_blip_is_fine_tuned_and_what_is_saved_captions(tmp_path: Path) -> None:
    write_dataset(str(tmp_path / "set"), "train:24", "validation:6")
    wrong = tiny_config(init="demo")
    with pytest.raises(ConfigError, match=r"'blip'.*'cnn-lstm'"):  # and leaves the output free
        train(tmp_path / "set", tmp_path / "out", config=wrong)
    config = TrainConfig.model_validate(
        {
            "init": "demo",
            "train": {"lr": 1e-3, "num_epochs": 2, "batch_size": 8},
            "validation": {"metric": "loss"},
            "generation": {"num_beams": 1},
        }
    )
    found = train(tmp_path / "set", tmp_path / "out", config=config)
    assert found.history[1].validation_loss < found.history[0].validation_loss
    generation = GenerationConfig(num_beams=1)
    captioner = load_captioner(find_model(str(tmp_path / "out/model")), ModelConfig(), generation)
    (caption,) = captioner.caption(np.zeros((1, 64, 64, 3), np.uint8))
    assert caption.text
