"""What training writes beside models, what a person sees of it, and the settings that ship."""

import io
import logging
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from raycap.config import StorageConfig, TrainConfig
from raycap.config.loading import load_config
from raycap.console.progress import show_training
from raycap.console.train import epoch_table
from raycap.errors import ConfigError, DatasetError, RunConflict
from raycap.results.shown.experiments import training_rows
from raycap.results.training import (
    EpochRecord,
    Training,
    TrainingProgress,
    read_training,
    write_training,
)
from raycap.runs.opening import claim_output
from raycap.storage.stores import open_store
from raycap.training.checkpoints import State, read_state
from raycap.training.epochs import EVENTS, write_events
from raycap.training.run import TrainingClaim, training_fingerprint

CONFIGS = Path(__file__).parents[3] / "configs"
SCORES = {"cider_d": 0.5, "bleu_4": 0.25, "mean_tokens": 7.5, "length_gap": -9.5}


def record(epoch: int, **changes: object) -> EpochRecord:
    made = EpochRecord(
        epoch=epoch,
        num_steps=10 * epoch,
        num_images=320,
        num_unreadable=0,
        lr=1e-5,
        train_loss=2.5,
        fitted_loss=2.0,
        validation_loss=2.25,
        gap=0.25,
        gap_trend=None,
        overfits_since=None,
        scores=SCORES,
        is_best=True,
        images_per_s=100.0,
        train_s=3.2,
        validation_s=1.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def training(**changes: object) -> Training:
    worse = {**SCORES, "cider_d": 0.4}
    history = [record(1), record(2, is_best=False, num_unreadable=3, scores=worse)]
    made = Training(
        output="out",
        dataset="set",
        kind="blip",
        end="finished",
        num_images=320,
        num_epochs=2,
        num_steps=20,
        global_batch=32,
        micro_batch=32,
        metric="cider_d",
        best=history[0],
        last=history[1],
        history=history,
        overfits_since=None,
        images_per_s=100.0,
        wall_s=12.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def progress(**changes: object) -> TrainingProgress:
    made = TrainingProgress(
        epoch=1,
        num_epochs=2,
        step=3,
        num_steps=10,
        loss=2.3456,
        images_per_s=98.76,
        eta_s=65.0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_state_comes_back_digit_by_digit_and_a_damaged_one_is_refused() -> None:
    state = State(max_captions=8, epoch=1, step=3, num_steps=13, loss_sum=0.1 + 0.2, num_tokens=7)
    state.history.append(record(1, train_loss=1 / 3))
    assert read_state(state.to_json()) == state
    with pytest.raises(DatasetError, match="step"):
        read_state({**state.to_json(), "step": "many"})


def test_a_training_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageConfig())
    assert read_training(store) is None
    write_training(store, training())
    assert read_training(store) == training()
    (tmp_path / "training.json").write_text('{"output": 1}')
    with pytest.raises(DatasetError) as caught:
        read_training(store)
    assert caught.value.uri == str(tmp_path / "training.json")


def test_how_the_work_is_spread_is_no_part_of_a_runs_fingerprint() -> None:
    def fingerprint(*settings: str) -> object:
        return training_fingerprint({"parts": "x"}, load_config(TrainConfig, None, list(settings)))

    spread = ("train.batch_size=8", "engine.num_workers=4", "train.num_accumulated=2")
    other = ("engine.torch_threads=1", "train.checkpoint_every_s=1", "train.tensorboard=true")
    assert fingerprint(*spread, *other) == fingerprint()
    for setting in (
        "train.lr=1",
        "train.batch_size=8",
        "train.seed=1",
        "augment.flip=0.5",
        "init=x",
    ):
        assert fingerprint(setting) != fingerprint()


def test_an_output_is_taken_once_and_by_another_only_before_it_has_begun(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageConfig())
    claim_output(store, TrainingClaim({"lr": 1}, TrainConfig()))
    claim_output(store, TrainingClaim({"lr": 2}, TrainConfig()))
    store.write("checkpoints/initial/model.safetensors", b"x")
    claim_output(store, TrainingClaim({"lr": 3}, TrainConfig()))
    assert not (tmp_path / "checkpoints").exists()
    store.write("checkpoints/step-00000001/checkpoint.json", b"{}")
    with pytest.raises(RunConflict):
        claim_output(store, TrainingClaim({"lr": 4}, TrainConfig()))
    claim_output(store, TrainingClaim({"lr": 3}, TrainConfig()))


def test_a_run_is_extended_by_more_epochs_and_by_nothing_else(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageConfig())

    def claim(num_epochs: int, **other: float) -> TrainingClaim:
        train = {"num_epochs": num_epochs, "seed": 0, **other}
        return TrainingClaim({"kind": "blip", "train": train}, TrainConfig())

    claim_output(store, claim(2))
    store.write("checkpoints/step-00000001/checkpoint.json", b"{}")
    write_training(store, training())
    for wrong in (claim(1), claim(3, seed=1), claim(2, seed=1)):
        with pytest.raises(RunConflict):
            claim_output(store, wrong)
    claim_output(store, claim(3))
    assert claim(3).find(store) == claim(3).fingerprint
    with pytest.raises(RunConflict):
        claim_output(store, claim(2))
    store.delete_all("checkpoints/")
    with pytest.raises(RunConflict) as caught:
        claim_output(store, claim(4))
    assert caught.value.setting == "train.num_epochs"


def events(data: bytes) -> list[Event]:
    """Read the records of an event file: length, its checksum, content, its checksum."""
    found = []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_event_files_hold_the_losses_and_scores_of_each_epoch_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), StorageConfig())
    for epoch in (1, 2, 2):  # the last was resumed
        write_events(store, record(epoch))
    files = sorted((tmp_path / EVENTS).iterdir())
    assert [file.name for file in files] == [
        "events.out.tfevents.000001",
        "events.out.tfevents.000002",
    ]
    found = {
        value.tag: (event.step, value.simple_value)
        for event in events(files[1].read_bytes())
        for value in event.summary.value
    }
    assert found["loss/validation"] == (20, 2.25)
    assert found["scores/length_gap"] == (20, -9.5)
    assert {"loss/train", "loss/fitted", "loss/gap", "lr", "images_per_s"} <= found.keys()


def test_without_its_package_event_files_are_an_error_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"raycap\[tensorboard\]") as caught:
        write_events(open_store(str(tmp_path), StorageConfig()), record(1))
    assert caught.value.setting == "train.tensorboard"


def test_a_terminal_shows_a_bar_and_a_line_for_each_epoch() -> None:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=True, width=140)
    with show_training(console) as on_progress:
        on_progress(progress())
        on_progress(progress(is_validating=True, loss=None, eta_s=None))
        on_progress(progress(step=10, epoch_record=record(1)))
    shown = sink.getvalue()
    assert "validation loss" in shown
    assert "best so far" in shown


def test_without_a_terminal_lines_are_logged_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with show_training(Console(file=io.StringIO())) as on_progress:
        for step in range(5):
            on_progress(progress(step=step))
    (line,) = caplog.messages
    assert line == "progress epoch=1/2 step=0/10 loss=2.346 images_per_s=98.8 eta=65.0s"


def test_the_result_names_the_best_epoch_what_was_unreadable_and_the_watch() -> None:
    found = training(overfits_since=None, end="exhausted")
    rows = dict(training_rows(found))
    assert rows["best epoch"] == "1 by cider_d"
    assert rows["ended"].startswith("early: cider_d")
    assert rows["unreadable"].startswith("3 images")
    assert rows["watch"].startswith("no verdict")
    rising = [record(1), record(2, validation_loss=2.5, fitted_loss=1.5)]
    rising.append(record(3, validation_loss=2.75, fitted_loss=1.0))
    rows = dict(training_rows(training(history=rising, overfits_since=2)))
    assert "epoch 2" in rows["watch"]
    sink = io.StringIO()
    Console(file=sink, width=140).print(epoch_table(found.history, best=1))
    lines = sink.getvalue().splitlines()
    assert lines[1].split() == [
        *("1", "2.500", "2.000", "2.250", "0.250"),
        *("0.500", "0.250", "7.500", "-9.500", "best"),
    ]
    assert "best" not in lines[2]


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("finetune-*.yaml")), ids=lambda f: f.stem)
def test_the_recipes_that_ship_are_valid(file: Path) -> None:
    config = load_config(TrainConfig, file, [])
    assert config.kind == "blip"
    assert yaml.safe_load(file.read_text())


def test_the_recipe_for_blip_base_is_the_authors() -> None:
    config = load_config(TrainConfig, CONFIGS / "finetune-blip-base.yaml", [])
    assert config.train.lr == 1e-5
    assert config.train.num_epochs == 5
    assert config.optimizer.weight_decay == 0.05
    assert config.generation.num_beams == 3
    assert config.augment.flip == 0
