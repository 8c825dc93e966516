"""`raycap tune` from end to end: open the run, run the trials that are left, keep the best."""

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import yaml

from raycap.cluster.mailbox import Mailbox
from raycap.cluster.start import ray_cluster, start_here
from raycap.config import ModelKind, TuneConfig
from raycap.config.loading import override
from raycap.datasets.dataset import identify, open_dataset
from raycap.errors import RunConflict, RunStopped
from raycap.experiments.tuning.record import (
    BEST,
    MODEL,
    TRIALS,
    measure_trial,
    name_of,
    write_search,
)
from raycap.experiments.tuning.resources import fit_trials, share_threads
from raycap.experiments.tuning.space import (
    Space,
    most_epochs,
    num_suggested,
    points,
    read_space,
    trial_config,
)
from raycap.experiments.tuning.trial import TrialSpec
from raycap.experiments.tuning.trials import Searching, SearchPlan
from raycap.progress import announce
from raycap.results.search import (
    OnSearchProgress,
    Params,
    Search,
    SearchProgress,
    Trial,
    pick_best,
    read_search,
)
from raycap.results.status import Status
from raycap.results.training import Metric
from raycap.runs.opening import Claim, Run, open_run
from raycap.runs.records import LOCK, now, versions
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from raycap.training.checkpoints import CHECKPOINTS, list_keys, local_copy, replacing
from raycap.training.epochs import BEST as TRAINED
from raycap.training.epochs import LAST
from raycap.training.preparing import Models
from raycap.training.resources import fit_resources
from raycap.training.run import MODELS, training_fingerprint


def keep_best(
    store: Store, config: TuneConfig, best: Trial, metric: str, before: Search | None
) -> None:
    """Write `best.yaml`, and `model/` unless it is the best trial's model already.

    Args:
        store: the search's output.
        config: its settings.
        best: its best trial.
        metric: by which the trials are compared.
        before: the result of the last invocation.
    """
    settings = trial_config(config.base(), best.params).model_dump(mode="json")
    head = f"# The best of the trials of a search: {best.name}, {metric} {best.value}\n"
    store.write(BEST, (head + yaml.safe_dump(settings, sort_keys=False)).encode())
    stands = before is not None and bool(before.end) and before.best == best.name
    if stands and before is not None and best in before.trials and list_keys(store, MODEL):
        return
    trained = f"{TRIALS.folder_of(best.name)}{TRAINED}"
    with local_copy(store, trained) as model, replacing(store, MODEL) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)


logger = logging.getLogger(__name__)

_NUM_WORKERS = "engine.num_workers"
_BATCH = ("train.batch_size", _NUM_WORKERS)


def tune(  # noqa: PLR0913  the public call: all but two by keyword
    dataset: str | Path,
    output: str | Path,
    *,
    config: TuneConfig | None = None,
    kind: ModelKind | None = None,
    init: str | None = None,
    models: Models = MODELS,
    on_progress: OnSearchProgress | None = None,
    debug: bool = False,
) -> Search:
    """Search settings of training on a caption dataset, into an output.

    The same call continues an interrupted search: trials that have ended are not run again, and a
    trial that was running continues from its last checkpoint.

    Args:
        dataset: a dataset of `raycap prepare`: a folder or `s3://bucket/prefix`.
        output: a folder or `s3://bucket/prefix`.
        config: all settings; None for the defaults.
        kind: shorthand for the setting `kind`.
        init: shorthand for the setting `init`.
        models: how models are built and loaded; pass your own to train your own models.
        on_progress: called when a trial begins, ends an epoch, or ends.
        debug: show Ray's and the workers' own output.

    Returns:
        The result, as written to `tune.json`.

    Raises:
        ConfigError: a setting, the dataset's address or the output's is wrong.
        DatasetError: the dataset is damaged, or lacks a split.
        RunConflict: the output belongs to another run, or another writer holds it.
        RunStopped: the search was interrupted, or no trial finished an epoch.
        StorageError: a store refuses.
    """
    config = override(config or TuneConfig(), {"kind": kind, "init": init})
    space = read_space(config)
    source = open_dataset(dataset, config.storage)
    store = open_store(str(output), config.storage)
    claim = Claim(search_fingerprint(identify(source), config, space), config)
    with open_run(store, claim) as run:
        searching = _Invocation(source.store.uri, run, claim, config, on_progress)
        end = searching.search(models, debug=debug)
        return searching.sum_up(end)


def search_fingerprint(dataset: dict[str, Any], config: TuneConfig, space: Space) -> dict[str, Any]:
    """Return what decides a search: two searches alike in this may share an output.

    Budgets, how the work is spread, and the values to try may change between invocations.
    """
    found = training_fingerprint(dataset, config.base())
    for name in space:
        *sections, last = name.split(".")
        place: dict[str, Any] = found
        for section in sections:
            place = place.get(section, {})
        place.pop(last, None)
    if not space.keys().isdisjoint(_BATCH):
        del found["train"]["global_batch"]
    return {"command": "tune", **found}


class _Invocation:
    """One invocation: the trials that have ended, and those it runs."""

    def __init__(
        self,
        dataset: str,
        run: Run,
        claim: Claim,
        config: TuneConfig,
        on_progress: OnSearchProgress | None,
    ) -> None:
        self._dataset = dataset
        self._run = run
        self._store = store = run.store
        self._claim = claim
        self._config = config
        self._on_progress = on_progress or (lambda _: None)
        self._space = read_space(config)
        self._learns = config.tune.algorithm == "optuna"
        self._points = [] if self._learns else points(self._space, config.tune)
        self._metric: Metric = config.validation.metric
        self._started = time.monotonic()
        self._started_at = now()
        self._told = {"config": config.model_dump(mode="json"), "versions": versions()}
        self._before = read_search(store)
        self._known, self._trials = self._begun()
        # Trials that have ended, with files that are to be deleted.
        self._unsettled = TRIALS.find_leftovers(store, (CHECKPOINTS, LAST)) & self._known.keys()
        self._with_model = set(self._known)

    def search(self, models: Models, *, debug: bool) -> str:
        """Run the trials that are left; return how the search ended."""
        if self._is_complete():
            return "finished"
        epochs = {name: len(trial.history) for name, trial in self._trials.items()}
        most = self._config.tune.max_total_epochs
        if most is not None and sum(epochs.values()) >= most:
            return "budget"
        base = self._config.base()
        has_groups = base.engine.num_workers > 1 or _NUM_WORKERS in self._space
        with ray_cluster(debug=debug, with_dashboard=has_groups) as is_fixed:
            resources = fit_resources(base.engine, is_fixed=is_fixed)
            total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            concurrent = fit_trials(total, base.engine, resources, self._config.tune)
            concurrent = min(concurrent, self._num_planned())
            engine = share_threads(base.engine, concurrent)
            announce("starting the first trials")
            logger.info("search trials=%d at_a_time=%d", self._num_planned(), concurrent)
            spec = TrialSpec(
                dataset=self._dataset,
                output=self._store.uri,
                base=base.model_copy(update={"engine": engine}),
                models=models,
                fingerprint=self._claim.fingerprint,
                known=self._known,
                mailbox=start_here(Mailbox),
                debug=debug,
            )
            plan = SearchPlan(
                space=self._space,
                search=self._config.tune,
                points=self._points or [trial.params for trial in self._trials.values()],
                num_epochs=most_epochs(self._space, base),
                max_concurrent=concurrent,
                epochs=epochs,
            )
            return Searching(plan, spec, self._take).follow(self._run.lock)

    def sum_up(self, end: str) -> Search:
        """Keep the best trial's model, and write the result."""
        for trial in list(self._trials.values()):
            if trial.status is Status.RUNNING:
                self._trials[trial.name] = self._measure(trial.params, trial.status)
        self._sweep()
        search = self._found(end)
        if end == "interrupted":
            write_search(self._store, replace(search, end=""))
            raise RunStopped(
                f"stopped with {search.count(Status.RUNNING)} unfinished trials in "
                f"{self._store.uri}; run the same command to continue"
            )
        if search.best is None:
            write_search(self._store, search)
            reasons = [trial.reason for trial in search.trials if trial.reason]
            raise RunStopped(
                f"{self._store.uri}: no trial finished an epoch"
                + (f"; the first failed: {reasons[0]}" if reasons else "")
            )
        best, before = search.trial(search.best), self._before
        if before is not None and (before.end, before.trials) == (end, search.trials):
            # Nothing was left to do.
            search = replace(
                search,
                wall_s=before.wall_s,
                started_at=before.started_at,
                finished_at=before.finished_at,
            )
        keep_best(self._store, self._config, best, self._metric, before)
        write_search(self._store, search)
        return search

    def _take(self, params: Params, status: Status, reason: str, notes: tuple[str, ...]) -> None:
        """Note the state of a trial; called by the thread of Ray Tune."""
        name = name_of(params)
        if name in self._known:
            return
        trial = self._trials[name] = self._measure(params, status, reason)
        if status is not Status.RUNNING:
            TRIALS.write(self._store, trial)
            self._unsettled.add(name)
            self._with_model.add(name)
            self._sweep()
        search = self._found("")
        write_search(self._store, search)
        for note in notes:
            logger.warning("trial=%s %s", name, note)
        self._on_progress(SearchProgress(search=search, trial=trial, notes=notes))

    def _sweep(self) -> None:
        """Delete the files that ended trials no longer need, except the best model."""
        for name in sorted(self._unsettled):
            with suppress(RunConflict):  # it is still ending: try again later
                self._settle(self._trials[name])
                self._unsettled.discard(name)
        # A running trial may be better, but may still fail.
        over = [trial for trial in self._trials.values() if trial.status is not Status.RUNNING]
        best = pick_best(over, self._metric)
        if self._config.tune.keep_models == "best":
            for name in self._with_model - self._unsettled - {best.name if best else ""}:
                self._store.delete_all(f"{TRIALS.folder_of(name)}{TRAINED}")
                self._with_model.discard(name)

    def _settle(self, trial: Trial) -> None:
        """Note a trial's final state: it may have trained on after it was asked to stop."""
        folder = TRIALS.folder_of(trial.name)
        store = open_store(self._store.address(folder.rstrip("/")), self._config.storage)
        with store.lock(LOCK) as lock:
            found = self._measure(trial.params, trial.status, trial.reason)
            self._trials[trial.name] = found
            TRIALS.write(self._store, found)
            lock.store.delete_all(CHECKPOINTS)
            lock.store.delete_all(LAST)

    def _measure(self, params: Params, status: Status, reason: str = "") -> Trial:
        return measure_trial(self._store, name_of(params), params, status, self._metric, reason)

    def _begun(self) -> tuple[dict[str, Trial], dict[str, Trial]]:
        """Read the trials that are over, and all that have begun; both as they began.

        Those that failed count as neither where they are to be run again.
        """
        retries = self._config.tune.retry_failed
        over = TRIALS.read_ended(self._store, retry_failed=retries)
        begun: dict[str, Trial] = {}
        for trial in self._before.trials if self._before is not None else []:
            if trial.name in over:
                begun[trial.name] = over[trial.name]
            elif trial.status is Status.RUNNING and self._is_planned(trial):
                begun[trial.name] = self._measure(trial.params, trial.status)
        begun |= over
        return {name: trial for name, trial in begun.items() if name in over}, begun

    def _is_planned(self, trial: Trial) -> bool:
        """Whether an unfinished trial continues: the space may have changed."""
        if self._learns:
            return trial.params.keys() == self._space.keys()
        return trial.params in self._points

    def _is_complete(self) -> bool:
        if self._learns:
            return len(self._known) >= self._num_planned()
        return all(name_of(point) in self._known for point in self._points)

    def _num_planned(self) -> int:
        return num_suggested(self._config.tune) if self._learns else len(self._points)

    def _found(self, end: str) -> Search:
        config, trials = self._config, list(self._trials.values())
        best = pick_best(trials, self._metric)
        return Search(
            output=self._store.uri,
            dataset=self._dataset,
            kind=config.kind,
            metric=self._metric,
            algorithm=config.tune.algorithm,
            scheduler=config.tune.scheduler,
            space={name: values.describe() for name, values in self._space.items()},
            num_planned=self._num_planned(),
            best=best.name if best else None,
            trials=trials,
            end=end,
            wall_s=round(time.monotonic() - self._started, 2),
            started_at=self._started_at,
            finished_at=now() if end else "",
            **self._told,
        )
