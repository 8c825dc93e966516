"""The training loop of one worker: learning, files, progress, and resuming."""

import errno
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from raycap.errors import DatasetError, ModelError, RunConflict, RunStopped, StorageError
from raycap.results.training import HISTORY, PREVIEW, rank
from raycap.runs.records import LOCK
from raycap.storage.stores import open_store
from raycap.training.checkpoints import writing_to
from raycap.training.loop import End
from tests.support.tiny_dataset import picture, write_dataset
from tests.support.tiny_trainable import build_tiny, load_tiny
from tests.support.training_run import Ended, make_job, tiny_models, train_here
from tests.support.training_stream import tiny_config

WHITE = picture(np.full((8, 8, 3), 255, np.uint8))  # the tiny model's loss is not finite for it
PLAIN = {"enabled": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(str(folder), "train:40", "validation:12")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(ended: Ended) -> list[tuple[float, float, float]]:
    return [(r.train_loss, r.fitted_loss, r.validation_loss) for r in ended.state.history]


def test_the_tiny_model_learns_the_scenes_and_is_saved(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(
        train={"num_epochs": 12, "lr": 0.02}, validation={"patience": None}, augment=PLAIN
    )
    ended = train_here(dataset, tmp_path, config)
    assert ended.end is End.FINISHED
    first, last = ended.state.history[0], ended.state.history[-1]
    assert last.validation_loss < 0.7 * first.validation_loss
    assert last.scores["cider_d"] > first.scores["cider_d"]
    lines = [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [*range(1, 13)]
    assert lines[-1]["validation_loss"] == last.validation_loss
    told = json.loads((tmp_path / "last/raycap.json").read_text())["training"]
    assert told["epoch"] == 12
    assert told["metrics"]["scores"] == last.scores
    assert told["dataset"] == "scenes"
    best = min(
        ended.state.history,
        key=lambda it: rank(it.scores["cider_d"], it.validation_loss, "cider_d"),
    )
    told = json.loads((tmp_path / "model/raycap.json").read_text())["training"]
    assert told["epoch"] == best.epoch
    load_tiny(tmp_path / "model", config)


def test_progress_is_reported_step_by_step_and_at_each_epochs_end(
    dataset: Path, tmp_path: Path
) -> None:
    reporter = train_here(dataset, tmp_path, tiny_config()).told
    told, steps = reporter.progress, reporter.steps
    assert [(item.epoch, item.step) for item in steps] == [
        (e, s) for e in (1, 2) for s in range(1, 6)
    ]
    assert all(item.loss is not None and item.images_per_s > 0 for item in steps)
    shares = [item.share for item in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    etas = [item.eta_s for item in steps]
    assert etas[-1] is not None
    assert etas[-1] >= 0
    ends = [item.epoch_record for item in told if item.epoch_record is not None]
    assert [record.epoch for record in ends] == [1, 2]
    assert sum(item.is_validating for item in told) == 2


@pytest.mark.parametrize("stop_after", [1, 5, 7])
def test_a_stopped_run_continues_to_the_weights_of_an_undisturbed_one(
    dataset: Path, tmp_path: Path, stop_after: int
) -> None:
    config = tiny_config(
        train={"num_epochs": 3},
        architecture={"dropout": 0.3},
        optimizer={"ema_decay": 0.9},
    )
    whole = train_here(dataset, tmp_path / "whole", config)
    stopped = train_here(dataset, tmp_path / "cut", config, stop_after=stop_after)
    assert stopped.end is End.INTERRUPTED
    assert stopped.state.num_steps == stop_after
    rest = train_here(dataset, tmp_path / "cut", config)
    assert rest.end is End.FINISHED
    assert any(note.startswith("resumed epoch=") for note in rest.told.notes)
    assert len(rest.told.steps) == 15 - stop_after
    assert losses(rest) == losses(whole)
    for name in ("model", "last"):
        assert same(weights(tmp_path / "cut" / name), weights(tmp_path / "whole" / name))


def test_a_run_continues_with_more_epochs_after_its_end(dataset: Path, tmp_path: Path) -> None:
    short = train_here(dataset, tmp_path, tiny_config(train={"num_epochs": 1}))
    longer = train_here(dataset, tmp_path, tiny_config(train={"num_epochs": 3}))
    assert (short.end, longer.end) == (End.FINISHED, End.FINISHED)
    assert len(longer.told.steps) == 10
    assert longer.state.history[:1] == short.state.history
    assert [record.epoch for record in longer.state.history] == [1, 2, 3]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), SafetensorError("x")])
def test_a_full_temporary_folder_is_one_line(failure: Exception, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, writing_to(tmp_path):
        raise failure
    assert (caught.value.uri, "\n" in str(caught.value)) == (str(tmp_path), False)
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "missing").read_bytes()


def test_checkpoints_are_written_within_an_epoch_too(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"checkpoint_every_s": 1e-6, "num_epochs": 1})
    train_here(dataset, tmp_path, config)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("damaged", ["weights.safetensors", "checkpoint.json"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    dataset: Path, tmp_path: Path, damaged: str
) -> None:
    config = tiny_config(train={"num_epochs": 3})
    train_here(dataset, tmp_path / "whole", config)
    train_here(dataset, tmp_path / "cut", config, stop_after=12)
    file = tmp_path / "cut/checkpoints/step-00000012" / damaged
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    rest = train_here(dataset, tmp_path / "cut", config, stop_after=1)
    (warning,) = rest.told.warnings
    assert warning.startswith("checkpoint step-00000012 is damaged (")
    assert rest.state.num_steps == 11
    assert train_here(dataset, tmp_path / "cut", config).end is End.FINISHED
    assert same(weights(tmp_path / "cut/last"), weights(tmp_path / "whole/last"))


def test_without_an_intact_checkpoint_training_starts_again(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"num_epochs": 2})
    whole = train_here(dataset, tmp_path / "whole", config)
    train_here(dataset, tmp_path / "cut", config, stop_after=3)
    (record,) = (tmp_path / "cut/checkpoints").glob("step-*/optimizer.safetensors")
    record.unlink()
    rest = train_here(dataset, tmp_path / "cut", config)
    assert len(rest.told.warnings) == 1
    assert losses(rest) == losses(whole)


def test_a_kill_between_the_checkpoint_and_the_model_loses_neither(
    dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config(train={"num_epochs": 1})
    train_here(dataset, tmp_path, config)
    before = weights(tmp_path / "model")
    for name in ("model/model.safetensors", "last/model.safetensors", HISTORY):
        (tmp_path / name).unlink()
    assert train_here(dataset, tmp_path, config).end is End.FINISHED
    assert same(weights(tmp_path / "model"), before)
    assert same(weights(tmp_path / "last"), before)
    assert len((tmp_path / HISTORY).read_text().splitlines()) == 1


def test_training_stops_early_once_patience_is_exhausted(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(
        train={"num_epochs": 40, "lr": 1e-9},
        validation={"metric": "cider_d", "patience": 2},
        augment=PLAIN,
    )
    ended = train_here(dataset, tmp_path, config)
    assert ended.end is End.EXHAUSTED
    best = [record.epoch for record in ended.state.history if record.is_best][-1]
    assert len(ended.state.history) == best + 2
    assert json.loads((tmp_path / "model/raycap.json").read_text())["training"]["epoch"] == best


def test_the_watch_warns_once_and_names_the_epoch(tmp_path: Path) -> None:
    # Few images, and validation images whose captions do not fit them.
    write_dataset(str(tmp_path / "set"), "train:6", "validation:6")
    config = tiny_config(
        train={"num_epochs": 60, "lr": 0.05, "batch_size": 6},
        optimizer={"label_smoothing": 0.0, "weight_decay": 0.0},
        validation={"patience": None, "metric": "loss"},
        augment=PLAIN,
    )
    ended = train_here(tmp_path / "set", tmp_path / "out", config)
    named = [r.overfits_since for r in ended.state.history if r.overfits_since is not None]
    assert named
    assert ended.told.warnings
    assert f"epoch {named[0]}: " in ended.told.warnings[0]
    assert len(ended.told.warnings) == len({*named}) or len(ended.told.warnings) < len(named)
    last = ended.state.history[-1]
    assert last.gap == pytest.approx(last.validation_loss - last.fitted_loss)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_image(tmp_path: Path) -> None:
    write_dataset(str(tmp_path / "set"), "train:20", "validation:4", n000007=WHITE)
    config = tiny_config(train={"batch_size": 5}, augment=PLAIN)
    with pytest.raises(RunStopped, match=r"step \d of epoch 1") as caught:
        train_here(tmp_path / "set", tmp_path / "out", config)
    assert caught.value.uri == str(tmp_path / "out/nonfinite.json")
    assert caught.value.setting is None
    told = json.loads((tmp_path / "out/nonfinite.json").read_text())
    assert told["suspects"] == ["000007.png"]
    assert len(told["image_ids"]) == 5
    assert "000007.png" in told["image_ids"]


def test_diverged_weights_are_not_blamed_on_the_images(tmp_path: Path) -> None:
    write_dataset(str(tmp_path / "set"), "train:20", "validation:4")
    config = tiny_config(train={"batch_size": 5, "lr": 1e30}, augment=PLAIN)
    with pytest.raises(RunStopped, match=r"optimizer\.clip_norm") as caught:
        train_here(tmp_path / "set", tmp_path / "out", config)
    assert caught.value.setting == "train.lr"


def test_too_little_memory_means_smaller_micro_batches_and_a_warning(
    dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config(augment=PLAIN)
    models = tiny_models(most_images=3)
    ended = train_here(dataset, tmp_path / "small", config, models=models)
    assert ended.state.max_captions == 2
    warning = ended.told.warnings[0]
    assert "8 captions" in warning
    assert "2 captions" in warning
    # Apart from batch norm, which sees micro-batches, the steps are the same.
    asked = tiny_config(augment=PLAIN, train={"num_accumulated": 4})
    expected = train_here(dataset, tmp_path / "asked", asked)
    assert losses(ended) == losses(expected)
    assert not expected.told.warnings


def test_too_little_memory_for_one_image_is_one_clear_line(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gradient_checkpointing") as caught:
        train_here(dataset, tmp_path, tiny_config(), models=tiny_models(most_images=0))
    assert caught.value.setting == "train.precision"


def test_damaged_images_are_counted_and_the_rest_is_trained_on(tmp_path: Path) -> None:
    write_dataset(str(tmp_path / "set"), "train:20", "validation:4", n000001=b"x", n000002=b"")
    ended = train_here(tmp_path / "set", tmp_path / "out", tiny_config())
    assert [(r.num_images, r.num_unreadable) for r in ended.state.history] == [(18, 2)] * 2


def test_a_step_without_any_image_stops_the_run(tmp_path: Path) -> None:
    bad: dict[str, Any] = {f"n{number:06d}": b"no image" for number in range(8)}
    write_dataset(str(tmp_path / "set"), "train:8", "validation:2", **bad)
    with pytest.raises(DatasetError, match=r"\b8 .*step 1 .*epoch 1 ") as caught:
        train_here(tmp_path / "set", tmp_path / "out", tiny_config())
    assert caught.value.setting == "embed.enabled"


def test_a_validation_split_without_any_image_stops_the_run(tmp_path: Path) -> None:
    bad: dict[str, Any] = {f"n{number:06d}": b"no image" for number in (8, 9)}
    write_dataset(str(tmp_path / "set"), "train:8", "validation:2", **bad)
    with pytest.raises(DatasetError, match="validation") as caught:
        train_here(tmp_path / "set", tmp_path / "out", tiny_config())
    assert caught.value.setting == "embed.enabled"


def test_a_picture_of_augmented_images_is_written_before_training(
    dataset: Path, tmp_path: Path
) -> None:
    train_here(dataset, tmp_path, tiny_config(), stop_after=0)
    preview = Image.open(BytesIO((tmp_path / PREVIEW).read_bytes()))
    assert preview.size == (6 * 20 + 4, 6 * 20 + 4)  # unchanged, and five epochs; six images


def test_another_seed_gives_another_model_and_the_same_seed_the_same(
    dataset: Path, tmp_path: Path
) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = tiny_config(train={"num_epochs": 1, "seed": seed})
        train_here(dataset, tmp_path / name, config)
        found.append(weights(tmp_path / name / "last"))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_the_averaged_weights_are_what_is_measured_and_saved(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(optimizer={"ema_decay": 0.99}, train={"num_epochs": 1}, augment=PLAIN)
    ended = train_here(dataset, tmp_path / "out", config)
    torch.manual_seed(config.train.seed)
    initial = weights(tmp_path / "out/checkpoints/initial")
    saved = weights(tmp_path / "out/last")
    held = load_file(next((tmp_path / "out/checkpoints").glob("step-*/average.safetensors")))
    trained = load_file(next((tmp_path / "out/checkpoints").glob("step-*/weights.safetensors")))
    for name in held:
        assert torch.equal(saved[name], held[name])
    moved = (saved["say.weight"] - initial["say.weight"]).abs().mean()
    assert 0 < moved < 0.2 * (trained["say.weight"] - initial["say.weight"]).abs().mean()
    assert ended.state.history[0].validation_loss > 0


def test_bf16_autocast_trains_weights_that_stay_fp32(dataset: Path, tmp_path: Path) -> None:
    config = tiny_config(train={"precision": "bf16", "num_epochs": 3}, augment=PLAIN)
    ended = train_here(dataset, tmp_path / "bf16", config)
    exact = train_here(
        dataset, tmp_path / "fp32", tiny_config(train={"num_epochs": 3}, augment=PLAIN)
    )
    assert {value.dtype for value in weights(tmp_path / "bf16/last").values()} >= {torch.float32}
    assert torch.bfloat16 not in {v.dtype for v in weights(tmp_path / "bf16/last").values()}
    found, expected = losses(ended)[-1][0], losses(exact)[-1][0]
    assert found != expected
    assert found == pytest.approx(expected, rel=0.05)


def test_the_model_begins_with_words_of_the_training_split(dataset: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def build(config: Any, captions: Any) -> Any:
        seen.extend(captions)
        return build_tiny(config, seen)

    models = tiny_models()
    models = type(models)(build=build, load=models.load)
    train_here(dataset, tmp_path, tiny_config(), models=models, stop_after=0)
    assert len(seen) == 80


def test_a_worker_of_a_run_that_was_taken_over_writes_nothing(
    dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config()
    output, key = tmp_path / "out", "checkpoints/checkpoint.json"
    store = open_store(str(output), config.storage)
    with store.lock(LOCK) as lock:
        worker = make_job(dataset, output, config, lock_token=lock.token).open_output()
        worker.write(key, b"1")
    with store.lock(LOCK):
        for written in (key, "best/config.json"):
            with pytest.raises(RunConflict) as caught:
                worker.write(written, b"2")
            assert caught.value.uri == str(output)
    assert store.read(key) == b"1"
    assert not store.exists("best/config.json")
