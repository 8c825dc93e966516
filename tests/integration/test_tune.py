"""`tune` on a local Ray: searched, stopped early, crashed, interrupted and gone on with."""

import os
import shutil
import signal
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raycap.config import TrainConfig, TuneConfig
from raycap.config.loading import load_config, validate_config
from raycap.errors import ModelError, RunConflict, RunStopped
from raycap.experiments.tuning.record import name_of
from raycap.experiments.tuning.run import tune
from raycap.experiments.tuning.space import trial_config
from raycap.results.search import Search, SearchProgress, Trial
from raycap.results.status import Status
from raycap.training.preparing import Models
from tests.support.commandline import workers_named
from tests.support.tiny_dataset import write_dataset
from tests.support.tiny_trainable import TinyTrainable, build_tiny, load_tiny
from tests.support.training_run import TINY, tiny_models

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

LR, DROPOUT = "train.lr", "architecture.dropout"
GRID = {LR: [0.03, 0.001], DROPOUT: [0.0, 0.3]}
BEST = {LR: 0.03, DROPOUT: 0.0}


def settings(space: dict[str, Any], *, num_epochs: int = 3, **search: Any) -> TuneConfig:
    values = {
        "kind": "cnn-lstm",
        "train": {"batch_size": 8, "num_epochs": num_epochs, "checkpoint_every_s": 0.1},
        "engine": {"max_failures": 0},
        "tune": {"space": space, **search},
    }
    return validate_config(TuneConfig, values)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(str(folder), "train:44", "validation:10")
    return folder


@pytest.fixture(scope="module")
def searched(dataset: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Any:
    """A grid of four, and what it told."""
    del ray_session
    output = tmp_path_factory.mktemp("searched")
    seen: list[SearchProgress] = []
    config = settings(GRID, reduction=2)
    found = tune(dataset, output, config=config, models=TINY, on_progress=seen.append)
    return found, seen, output


def copied(searched: Any, folder: Path) -> Path:
    """Go on elsewhere with the four trials."""
    return Path(shutil.copytree(searched[2], folder / "search"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def written(output: Path) -> dict[Path, int]:
    """When each file of a trial was written, but for its model's."""
    files = (path for path in output.glob("trials/*/*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


def losses(trial: Trial) -> list[float]:
    return [record.validation_loss for record in trial.history]


def test_a_grid_is_searched_and_what_falls_behind_is_stopped(searched: Any) -> None:
    found, seen, _ = searched
    assert isinstance(found, Search)
    assert (found.end, found.num_planned, len(found.trials)) == ("finished", 4, 4)
    best = found.trial(name_of(BEST))
    assert found.best == best.name
    assert (best.status, len(best.history)) == (Status.FINISHED, 3)
    assert best.value == max(record.scores["cider_d"] for record in best.history)
    assert found.count(Status.STOPPED) >= 1
    assert found.count(Status.FINISHED) + found.count(Status.STOPPED) == 4
    assert found.trials[0].params == BEST
    told = [item.trial.status for item in seen if item.trial and item.trial.name == best.name]
    assert told[0] is Status.RUNNING
    assert told[-1] is Status.FINISHED
    assert seen[-1].search.best == best.name


def test_a_search_leaves_its_best_model_and_settings_and_deletes_the_rest(searched: Any) -> None:
    found, _, output = searched
    assert names_in(output) == {
        *("run.json", "config.json", "lock.json", "tune.json", "trials.parquet", "best.yaml"),
        *("model", "trials"),
    }
    for trial in found.trials:
        left = names_in(output / "trials" / trial.name)
        assert not left & {"checkpoints", "last"}
        assert ("model" in left) == (trial.name == found.best)
    config = load_config(TrainConfig, output / "best.yaml", [])
    assert config == trial_config(settings(GRID).base(), BEST)
    assert load_tiny(output / "model", config).network
    assert pq.read_table(output / "trials.parquet")["trial"].to_pylist() == [
        trial.name for trial in found.trials
    ]


def test_a_complete_search_is_not_run_again_and_another_one_is_refused(
    dataset: Path, searched: Any
) -> None:
    found, _, output = searched
    before, model = written(output), (output / "model/raycap.json").stat().st_mtime_ns
    seen: list[SearchProgress] = []
    config = settings(GRID, reduction=2)
    assert tune(dataset, output, config=config, models=TINY, on_progress=seen.append) == found
    assert not seen
    assert written(output) == before
    assert (output / "model/raycap.json").stat().st_mtime_ns == model
    with pytest.raises(RunConflict, match=r"\+ train\.num_epochs = 4"):
        tune(dataset, output, config=settings(GRID, num_epochs=4), models=TINY)


def test_optuna_goes_on_from_what_was_tried(dataset: Path, searched: Any, tmp_path: Path) -> None:
    output = copied(searched, tmp_path)
    before = written(output)
    space = {LR: {"loguniform": [0.0005, 0.05]}, DROPOUT: {"uniform": [0.0, 0.4]}}
    config = settings(space, algorithm="optuna", num_trials=5)
    found = tune(dataset, output, config=config, models=TINY)
    assert (len(found.trials), found.end) == (5, "finished")
    new = found.trials[-1]
    assert 0.0005 <= new.params[LR] <= 0.05
    assert new.history
    assert before.items() <= written(output).items()


def test_random_draws_with_the_median_rule_and_all_models_kept(
    dataset: Path, searched: Any, tmp_path: Path
) -> None:
    output = copied(searched, tmp_path)
    space = {LR: {"loguniform": [0.0001, 0.0002]}, DROPOUT: [0.0]}
    config = settings(
        space, algorithm="random", scheduler="median", num_trials=1, keep_models="all"
    )
    found = tune(dataset, output, config=config, models=TINY)
    new = found.trials[-1]
    assert (len(found.trials), new.status, found.best) == (5, Status.FINISHED, name_of(BEST))
    assert "model" in names_in(output / "trials" / new.name)
    assert not names_in(output / "trials" / new.name) & {"checkpoints", "last"}


def build_or_break(config: TrainConfig, captions: Iterable[str]) -> TinyTrainable:
    """Build the tiny model; break for some learning rates."""
    if config.train.lr == 0.5:
        raise ModelError("a rate of 0.5 [is] too much")
    if config.train.lr == 0.6:
        os.kill(os.getpid(), signal.SIGKILL)
    return build_tiny(config, captions)


def kill_actor() -> None:
    """Kill the process that a trial runs in, as the kernel would."""
    for process in workers_named("TrialActor"):
        process.kill()


def test_trials_that_crash_are_rows_the_others_go_on_and_they_can_be_tried_again(
    dataset: Path, tmp_path: Path
) -> None:
    def on_progress(progress: SearchProgress) -> None:
        trial = progress.trial
        if trial is not None and (trial.params[LR], trial.status) == (0.7, Status.RUNNING):
            kill_actor()

    config = settings({LR: [0.5, 0.6, 0.7, 0.03]}, num_epochs=1)
    models = Models(build=build_or_break, load=load_tiny)
    found = tune(dataset, tmp_path, config=config, models=models, on_progress=on_progress)
    raised, killed, died, whole = found.trials
    assert [trial.status for trial in found.trials] == [*[Status.FAILED] * 3, Status.FINISHED]
    assert (found.best, found.end) == (whole.name, "finished")
    assert raised.reason == "a rate of 0.5 [is] too much"
    assert killed.reason.startswith("the cluster failed (")
    assert died.reason.startswith("its process died, perhaps out of memory")
    before = written(tmp_path)
    assert tune(dataset, tmp_path, config=config, models=models) == found
    assert written(tmp_path) == before

    config = settings({LR: [0.5, 0.03]}, num_epochs=1, retry_failed=True)
    again = tune(dataset, tmp_path, config=config, models=TINY)
    assert again.trial(raised.name).status is Status.FINISHED
    assert again.trial(raised.name).reason == ""
    assert again.trial(whole.name) == whole


def test_an_interrupt_lets_trials_stop_and_the_same_call_goes_on(
    dataset: Path, searched: Any, tmp_path: Path
) -> None:
    sent: list[str] = []

    def on_progress(progress: SearchProgress) -> None:
        trial = progress.trial
        if not sent and trial is not None and trial.params == BEST and trial.history:
            sent.append(trial.name)
            os.kill(os.getpid(), signal.SIGINT)

    config = settings({LR: [0.02, 0.03], DROPOUT: [0.0]}, scheduler="none")
    slow = tiny_models(delay_s=0.3)
    with pytest.raises(RunStopped, match=r"\b1 unfinished"):
        tune(dataset, tmp_path, config=config, models=slow, on_progress=on_progress)
    first, second = (name_of({LR: lr, DROPOUT: 0.0}) for lr in (0.02, 0.03))
    assert sent == [second]
    assert list((tmp_path / "trials" / second / "checkpoints").iterdir())
    before = {path: at for path, at in written(tmp_path).items() if first in str(path)}
    found = tune(dataset, tmp_path, config=config, models=TINY)
    assert [trial.name for trial in found.trials] == [first, second]
    assert [trial.status for trial in found.trials] == [Status.FINISHED] * 2
    assert before.items() <= written(tmp_path).items()
    # As if it had never been stopped.
    assert losses(found.trial(second)) == losses(searched[0].trial(second))


def test_a_budget_ends_a_search_and_a_larger_one_goes_on(
    dataset: Path, searched: Any, tmp_path: Path
) -> None:
    output = copied(searched, tmp_path)
    spent = sum(len(trial.history) for trial in searched[0].trials)
    seen: list[SearchProgress] = []
    run: Callable[..., Search] = partial(tune, dataset, output, models=tiny_models(delay_s=0.3))

    def budget(**limits: Any) -> TuneConfig:
        return settings({LR: [0.03, 0.02], DROPOUT: [0.0]}, scheduler="none", **limits)

    found = run(config=budget(max_total_epochs=spent + 1), on_progress=seen.append)
    new = name_of({LR: 0.02, DROPOUT: 0.0})
    assert (found.end, found.best) == ("budget", name_of(BEST))
    assert found.trial(new).status is Status.RUNNING
    assert 1 <= len(found.trial(new).history) < 3
    seen.clear()
    assert run(config=budget(max_total_epochs=spent + 1), on_progress=seen.append) == found
    assert not seen
    found = run(config=budget(max_time_s=0.01))
    assert (found.end, found.trial(new).status) == ("budget", Status.RUNNING)
    found = run(config=budget())
    assert (found.end, found.trial(new).status) == ("finished", Status.FINISHED)
    assert len(found.trial(new).history) == 3
