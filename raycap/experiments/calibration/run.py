"""`raycap calibrate` from end to end: try settings on some images, save the model with the best.

No weight is changed: the result is the baseline for fine-tuning towards longer captions.
"""

import logging
import time
from pathlib import Path
from typing import Any

from raycap.cluster.start import ray_cluster
from raycap.config import CalibrateConfig, GenerationConfig
from raycap.config.loading import override
from raycap.datasets.dataset import CaptionDataset, identify, open_dataset
from raycap.errors import ConfigError
from raycap.experiments.calibration.captioning import Captioners
from raycap.experiments.calibration.images import LoadedSlice, LoadSpec, choose_images, load_images
from raycap.experiments.calibration.search import Wave, choose, next_wave
from raycap.experiments.calibration.trials import ScoredReferences, TrialLog, score_trial
from raycap.metrics.tokenizer import TOKENIZER
from raycap.models.base import ModelSource
from raycap.models.load import copy_model
from raycap.models.sources import (
    check_arithmetic,
    find_model,
    refuse_adapter,
    settled_generation,
    settled_model,
)
from raycap.models.vlm.vllm_requests import refuse_backend
from raycap.progress import OnProgress, Progress, announce
from raycap.results.calibration import (
    TRIALS,
    Calibration,
    ReferenceLengths,
    ScoredSetting,
    SliceRecord,
    changes,
    write_calibration,
)
from raycap.runs.opening import Claim, open_run
from raycap.runs.records import now, versions
from raycap.storage.address import Address
from raycap.storage.base import Store
from raycap.storage.stores import open_store

logger = logging.getLogger(__name__)


def calibrate(  # noqa: PLR0913  the public call: all but three by keyword
    model: str,
    dataset: str | Path,
    output: str | Path,
    *,
    config: CalibrateConfig | None = None,
    split: str | None = None,
    on_progress: OnProgress | None = None,
    debug: bool = False,
) -> Calibration:
    """Search settings that close the length gap without losing CIDEr-D, and save the model.

    The same call continues an interrupted run: settings that were tried are kept. They are also
    kept if `search`, `max_cider_loss` or `closed_gap` change.

    Args:
        model: a Hub name, `name@revision`, a local folder or `demo`; overrides the setting
            `model.name`.
        dataset: a caption dataset with the split that the settings name.
        output: a new folder of this machine, for the model with the chosen settings.
        config: all settings; None for the defaults.
        split: shorthand for the setting `split`.
        on_progress: called as images are captioned; counts them over all settings.
        debug: show Ray's and the workers' own output.

    Returns:
        The settings tried and the one chosen, as written to `calibration.json`.

    Raises:
        ConfigError: a setting or the output is wrong.
        DatasetError: the dataset is damaged or too small, or lacks the split.
        ModelError: the model cannot be found, loaded, run or copied.
        RunConflict: the output belongs to another calibration, or another writer holds it.
        RunStopped: the run was interrupted, or ended early.
        StorageError: a store refuses.
    """
    started = time.monotonic()
    config = override(config or CalibrateConfig(), {"split": split})
    source = find_model(model, config.model.adapter)
    config = _resolved(config, source, model)
    opened = open_dataset(dataset, config.storage)
    store, folder = _open_output(str(output), source, config)
    claim = CalibrationClaim(calibration_fingerprint(identify(opened), source, config), config)
    with open_run(store, claim) as run:
        log = TrialLog(folder, run.lock.check)
        searching = _Invocation(opened, source, config, log, on_progress)
        run.describe_stop = lambda: searching.describe_stop(store)
        searching.complete(debug=debug)
        calibration = searching.sum_up(store.uri, started)
        generation = calibration.chosen.generation
        run.lock.check()
        copy_model(source, folder, generation, {"calibration": calibration.summary()})
        run.finish(write_calibration, calibration)
    return calibration


def calibration_fingerprint(
    dataset: dict[str, Any], model: ModelSource, config: CalibrateConfig
) -> dict[str, Any]:
    """Return what decides a trial: two calibrations alike in this may share their trials.

    Which settings are tried, and how the best of them is chosen, may change.
    """
    return {
        "dataset": dataset,
        "split": config.split,
        "num_images": config.num_images,
        "model": {**model.identity(), **config.model.arithmetic()},
        "generation": config.generation.model_dump(mode="json"),
        "image": config.image.model_dump(mode="json"),
    }


class CalibrationClaim(Claim):
    """A calibration's claim to its folder; the fingerprint is the first line of its trial log."""

    noun = "calibration"
    own_files = (TRIALS,)

    def find(self, store: Store) -> dict[str, Any] | None:
        """Return the fingerprint of the trials that the folder holds; None where there are none."""
        return TrialLog(Path(store.uri)).fingerprint

    def create(self, store: Store) -> None:
        """Begin the trial log."""
        TrialLog(Path(store.uri)).claim(self.fingerprint)

    def renew(self, store: Store) -> None:
        """Write nothing: `calibration.json` holds the settings."""


class _Invocation:
    """One invocation: the settings tried before, and those it tries."""

    def __init__(
        self,
        dataset: CaptionDataset,
        source: ModelSource,
        config: CalibrateConfig,
        log: TrialLog,
        on_progress: OnProgress | None,
    ) -> None:
        self._dataset = dataset
        self._source = source
        self._config = config
        self._log = log
        self._on_progress = on_progress or (lambda _: None)
        self._num_answered = 0
        self._num_failed = 0
        self._clock_s = 0.0

    @property
    def num_trials(self) -> int:
        """Number of settings tried."""
        return len(self._log.trials)

    def describe_stop(self, store: Store) -> str:
        """Return how far an interrupted calibration came, and how to continue it."""
        return (
            f"stopped with {self.num_trials} settings tried, kept in {store.uri}; run the same "
            "command to continue"
        )

    def complete(self, *, debug: bool) -> None:
        """Try all settings that are left."""
        if self._log.slice is not None and not self._wave(self._log.slice.lengths).settings:
            return
        chosen = choose_images(self._dataset, self._config.split, self._config.num_images)
        with (
            ray_cluster(debug=debug) as is_fixed,
            Captioners(self._source, self._config, is_fixed=is_fixed) as captioners,
        ):
            spec = LoadSpec(
                dataset=self._dataset.store.uri,
                storage=self._config.storage,
                image=self._config.image,
                target=self._source.target,
            )
            announce("loading the images")
            images = load_images(chosen, spec, captioners.batch_size)
            references = ScoredReferences.of(images.references)
            announce("loading the model")
            lengths = self._measure(images, references, captioners)
            self._log.start(_describe(images, lengths))
            self._search(images, references, lengths, captioners)

    def sum_up(self, output: str, started: float) -> Calibration:
        """Choose a setting, and return the result."""
        assert self._log.slice is not None
        trials = self._log.trials
        return Calibration(
            output=output,
            model=self._source.identity(),
            dataset=identify(self._dataset),
            split=self._config.split,
            images=self._log.slice,
            tokenizer=TOKENIZER,
            start=trials[0],
            chosen=choose(trials, self._config),
            trials=list(trials),
            max_cider_loss=self._config.max_cider_loss,
            closed_gap=self._config.closed_gap,
            config=self._config.model_dump(mode="json"),
            wall_s=round(time.monotonic() - started, 2),
            versions=versions(),
            created_at=now(),
        )

    def _wave(self, lengths: ReferenceLengths) -> Wave:
        return next_wave(self._config, lengths, self._log.trials)

    def _measure(
        self, images: LoadedSlice, references: ScoredReferences, captioners: Captioners
    ) -> ReferenceLengths:
        """Measure the references in tokens of the metric and of the model, which is loaded."""
        if images.unreadable:
            first = images.unreadable[0]
            logger.warning("images_left_out count=%d first=%s", len(images.unreadable), first)
        counts = captioners.count_tokens([text for image in images.references for text in image])
        return ReferenceLengths(
            metric_tokens=references.mean_length, model_tokens=sum(counts) / len(counts)
        )

    def _search(
        self,
        images: LoadedSlice,
        references: ScoredReferences,
        lengths: ReferenceLengths,
        captioners: Captioners,
    ) -> None:
        self._clock_s = time.monotonic()
        while (wave := self._wave(lengths)).settings:
            for number, generation in enumerate(wave.settings):
                num_left = len(wave.settings) - number + wave.most_later
                captions = self._caption(images, generation, captioners, num_left)
                trial = score_trial(generation, captions, references)
                self._num_failed += trial.num_failed
                self._log.add(trial)
                _log_trial(trial, self.num_trials, num_left - 1)

    def _caption(
        self,
        images: LoadedSlice,
        generation: GenerationConfig,
        captioners: Captioners,
        num_left: int,
    ) -> list[str | None]:
        """Caption all images with a setting, the first of `num_left` settings."""
        captions: list[str | None] = []
        num_images = len(images.image_ids)
        for block in captioners.caption(images.blocks, generation):
            captions += block
            self._num_answered += len(block)
            elapsed_s = time.monotonic() - self._clock_s
            self._on_progress(
                Progress(
                    num_done=self.num_trials * num_images + len(captions),
                    num_total=(self.num_trials + num_left) * num_images,
                    num_failed=self._num_failed,
                    images_per_s=self._num_answered / elapsed_s,
                    stage=f"setting {self.num_trials + 1} of at most {self.num_trials + num_left}",
                )
            )
        return captions


def _resolved(config: CalibrateConfig, source: ModelSource, model: str) -> CalibrateConfig:
    """Set the model's name and the settings to start from."""
    if source.folder is None:
        raise ConfigError(
            f"{model}: has no weights and no lengths to calibrate; give a Hub name, a local "
            "folder or demo",
            uri=model,
        )
    refuse_adapter(source, "a calibrated model")
    check_arithmetic(source, config.model)
    refuse_backend(config.model, "calibration")
    named = settled_model(config.model, source).model_copy(update={"name": model})
    generation = settled_generation(config.generation, source)
    return config.model_copy(update={"model": named, "generation": generation})


def _open_output(output: str, source: ModelSource, config: CalibrateConfig) -> tuple[Store, Path]:
    """Open the output, a folder of this machine other than the model's own."""
    address = Address.parse(output)
    if not address.is_local:
        raise ConfigError(
            f"{output}: a calibrated model is written to a folder of this machine", uri=output
        )
    store = open_store(address, config.storage)
    folder = Path(store.uri)
    if folder.resolve() == Path(source.folder or "").resolve():
        raise ConfigError(
            f"{folder}: is the model itself; give a new folder as output", uri=str(folder)
        )
    return store, folder


def _describe(images: LoadedSlice, lengths: ReferenceLengths) -> SliceRecord:
    return SliceRecord(
        num_images=len(images.image_ids),
        num_unreadable=len(images.unreadable),
        digest=images.digest,
        num_references=sum(map(len, images.references)),
        lengths=lengths,
    )


def _log_trial(trial: ScoredSetting, number: int, most_left: int) -> None:
    settings: dict[str, Any] = changes(trial.generation)
    logger.info(
        "setting_done number=%d at_most=%d %s cider_d=%.4f length_gap=%.2f",
        number,
        number + most_left,
        " ".join(f"{name}={value:g}" for name, value in settings.items()),
        trial.cider_d,
        trial.length_gap,
    )
