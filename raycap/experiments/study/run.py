"""`raycap study` from end to end: open the run, make the systems left, score them, report."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from raycap.cluster.mailbox import Mailbox
from raycap.cluster.start import ray_cluster, start_here
from raycap.config import SearchConfig, StudyConfig, TrainEngineConfig
from raycap.datasets.dataset import CaptionDataset, identify, open_dataset
from raycap.datasets.splits import TEST, TRAIN, VALIDATION
from raycap.errors import ConfigError, DatasetError, RunStopped
from raycap.experiments.study.decision import decide, pick_best, summarise
from raycap.experiments.study.making import StudySpec
from raycap.experiments.study.planning import (
    CALIBRATED,
    EVALUATION,
    FINETUNED,
    PRETRAINED,
    SYSTEMS,
    plan_systems,
    train_config,
)
from raycap.experiments.study.running import Running
from raycap.experiments.study.scoring import reference_words, score_systems
from raycap.experiments.tuning.resources import fit_trials, share_threads
from raycap.models.sources import find_model
from raycap.progress import OnProgress, announce
from raycap.reporting.report import report
from raycap.results.evaluation import Evaluation
from raycap.results.status import Status
from raycap.results.study import (
    REPORT,
    SUMMARY,
    OnStudyProgress,
    Study,
    StudyProgress,
    SystemRecord,
    write_study,
)
from raycap.runs.opening import Claim, Run, open_run
from raycap.runs.records import now, versions
from raycap.storage.address import Address
from raycap.storage.base import Store
from raycap.storage.stores import open_store
from raycap.training.resources import fit_resources

logger = logging.getLogger(__name__)


def study(
    dataset: str | Path,
    output: str | Path,
    *,
    config: StudyConfig | None = None,
    on_progress: OnStudyProgress | None = None,
    on_scoring: OnProgress | None = None,
    debug: bool = False,
) -> Study:
    """Compare captioners of every kind on a caption dataset, into an output.

    The same call continues an interrupted study: systems that have ended are not made again, and a
    system that was unfinished continues from its last checkpoint.

    Args:
        dataset: a dataset of `raycap prepare` with the splits train, validation and test.
        output: a folder that all nodes of the cluster share.
        config: all settings; None for the defaults.
        on_progress: called several times per second, and when a system has ended.
        on_scoring: called as captions are scored.
        debug: show Ray's and the workers' own output.

    Returns:
        The result, as written to `study.json`.

    Raises:
        ConfigError: a setting, the dataset's address or the output's is wrong.
        DatasetError: the dataset is damaged, or lacks a split.
        ModelError: the pretrained model cannot be found.
        RunConflict: the output belongs to another run, or another writer holds it.
        RunStopped: the study was interrupted, or no system was finished.
        StorageError: a store refuses.
    """
    config = config or StudyConfig()
    source = open_dataset(dataset, config.storage)
    _check_splits(source)
    store = _open_output(str(output), config)
    claim = Claim(study_fingerprint(source, config), config)
    with open_run(store, claim) as run:
        making = _Invocation(source, run, claim, config, on_progress)
        is_whole = making.make(debug=debug)
        return making.sum_up(on_scoring or (lambda _: None), is_whole=is_whole, debug=debug)


class _Invocation:
    """One invocation: the systems that have ended, and those it makes."""

    def __init__(
        self,
        dataset: CaptionDataset,
        run: Run,
        claim: Claim,
        config: StudyConfig,
        on_progress: OnStudyProgress | None,
    ) -> None:
        self._dataset = dataset
        self._run = run
        self._store = run.store
        self._claim = claim
        self._config = config
        self._on_progress = on_progress or (lambda _: None)
        self._started, self._started_at = time.monotonic(), now()
        self._told = {"config": config.model_dump(mode="json"), "versions": versions()}
        self._words = reference_words(dataset)
        planned = {system.name: system for system in plan_systems(config)}
        ended = SYSTEMS.read_ended(run.store, planned, retry_failed=config.study.retry_failed)
        self._systems = planned | {
            name: replace(system, is_main=planned[name].is_main) for name, system in ended.items()
        }
        for system in self._systems.values():
            if system.role not in (PRETRAINED, CALIBRATED):
                train_config(system, config)  # refuses a wrong setting before hours of work

    def make(self, *, debug: bool) -> bool:
        """Make the systems that are left; return False if it was interrupted."""
        left = [it for it in self._systems.values() if it.status is Status.WAITING]
        if not left:
            return True
        engine = self._config.training.engine
        with ray_cluster(debug=debug, with_dashboard=engine.num_workers > 1) as is_fixed:
            resources = fit_resources(engine, is_fixed=is_fixed)
            total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            limits = SearchConfig(max_concurrent=self._config.study.max_concurrent)
            concurrent = fit_trials(total, engine, resources, limits)
            announce("starting the first systems")
            logger.info("study systems=%d at_a_time=%d", len(left), concurrent)
            spec = self._spec(share_threads(engine, concurrent), debug=debug)
            running = Running(left, spec, concurrent)
            return running.follow(self._run.lock, self._take, self._report_stages)

    def sum_up(self, on_scoring: OnProgress, *, is_whole: bool, debug: bool) -> Study:
        """Score the finished systems, and write the result and the report."""
        if not is_whole:
            left = sum(it.status is not Status.FINISHED for it in self._systems.values())
            raise RunStopped(
                f"stopped with {left} of {len(self._systems)} systems to make in "
                f"{self._store.uri}; run the same command to continue"
            )
        finished = [it for it in self._systems.values() if it.status is Status.FINISHED]
        if not finished:
            reasons = [it.reason for it in self._systems.values() if it.reason]
            raise RunStopped(f"{self._store.uri}: no system was finished; the first: {reasons[0]}")
        output = Path(self._store.address(""))
        scored, evaluation = score_systems(
            finished, self._dataset, output, self._config, on_scoring, debug=debug
        )
        for system in scored:
            self._systems[system.name] = system
        found = self._found(evaluation, end="finished")
        write_study(self._store, found)
        self._store.write(SUMMARY, summarise(found).encode())
        shown = self._config.report.model_copy(update={"storage": self._config.storage})
        report(self._report_paths(found), output / REPORT, config=shown)
        return found

    def _report_paths(self, found: Study) -> list[str]:
        """Return the report's inputs: the study, and the main systems' captions and training."""
        paths = ["", EVALUATION] if any(it.is_main and it.scores for it in found.systems) else [""]
        for system in found.systems:
            if system.is_main and system.training:
                paths.append(f"{SYSTEMS.folder_of(system.name)}training")
            if system.is_main and system.calibration:
                paths.append(f"{SYSTEMS.folder_of(system.name)}calibration")
        return [self._store.address(path) for path in paths]

    def _spec(self, engine: TrainEngineConfig, *, debug: bool) -> StudySpec:
        return StudySpec(
            dataset=self._dataset.store.uri,
            output=self._store.uri,
            config=self._config,
            engine=engine,
            fingerprint=self._claim.fingerprint,
            mailbox=start_here(Mailbox),
            debug=debug,
        )

    def _take(self, system: SystemRecord) -> None:
        """Write the record of a system that has ended."""
        self._systems[system.name] = system
        SYSTEMS.write(self._store, system)
        found = self._found()
        write_study(self._store, found)
        if system.status is Status.FAILED:
            logger.warning("system=%s failed: %s", system.name, system.reason)
        self._on_progress(StudyProgress(study=found, stages={}, system=system))

    def _report_stages(self, stages: Mapping[str, tuple[str, float]]) -> None:
        systems = [
            replace(it, status=Status.RUNNING)
            if it.name in stages and it.status is Status.WAITING
            else it
            for it in self._systems.values()
        ]
        study = replace(self._found(), systems=systems)
        self._on_progress(StudyProgress(study=study, stages=stages))

    def _found(self, evaluation: Evaluation | None = None, end: str = "") -> Study:
        systems = list(self._systems.values())
        best = pick_best(systems)
        comparisons = evaluation.comparisons if evaluation else []
        return Study(
            output=self._store.uri,
            dataset=self._dataset.store.uri,
            split=TEST,
            num_images=evaluation.num_images if evaluation else 0,
            reference_mean_tokens=evaluation.reference_lengths.mean if evaluation else 0.0,
            reference_mean_words=self._words,
            systems=systems,
            best=best.name if best else None,
            decision=decide(systems, comparisons, self._words) if evaluation else [],
            end=end,
            wall_s=round(time.monotonic() - self._started, 2),
            started_at=self._started_at,
            finished_at=now() if end else "",
            **self._told,
        )


def _check_splits(dataset: CaptionDataset) -> None:
    for split in (TRAIN, VALIDATION, TEST):
        if split not in dataset.splits:
            raise DatasetError(
                f"{dataset.store.uri}: has no {split} split, which a study needs (it has: "
                f"{', '.join(dataset.splits)}); prepare it again with split.{split} above 0",
                uri=dataset.store.uri,
                setting=f"split.{split}",
            )


def _open_output(output: str, config: StudyConfig) -> Store:
    address = Address.parse(output)
    if not address.is_local:
        raise ConfigError(
            f"{output}: a study needs a folder, which all nodes share, as captioners read models "
            "from there; copy it to the bucket afterwards",
            uri=output,
        )
    return open_store(address, config.storage)


def study_fingerprint(dataset: CaptionDataset, config: StudyConfig) -> dict[str, Any]:
    """Return what decides the systems; which are made, and how they are shown, may change."""
    kept = {"training", "kinds", "calibration"}
    uses_blip = {PRETRAINED, CALIBRATED, FINETUNED} & set(config.study.systems)
    pretrained = find_model(config.pretrained).identity() if uses_blip else None
    values = config.model_dump(mode="json", include=kept)
    for section in ("training", "calibration"):
        for name in ("engine", "storage"):
            values[section].pop(name)
    return {
        "command": "study",
        "dataset": identify(dataset),
        "pretrained": pretrained,
        **values,
    }
