"""Load a model that was found, on any node of the cluster, or copy its folder."""

import logging
import shutil
from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.models.adapters import adapter_here
from raycap.models.base import Captioner, CaptionerKind, ModelSource
from raycap.models.folders import (
    GENERATION_FILE,
    KIND_FILE,
    SAFE_FILES,
    check_layers,
    check_safe,
    digest_folder,
    read_json,
    write_json,
)
from raycap.models.kinds import find_kind
from raycap.models.sources import (
    DEMO_FOLDER,
    GENERATION,
    check_arithmetic,
    refuse_adapter,
    settled_model,
)
from raycap.results.calibration import CALIBRATION
from raycap.runs.records import LOCK, RUN

logger = logging.getLogger(__name__)


def load_captioner(
    source: ModelSource, model: ModelConfig, generation: GenerationConfig
) -> Captioner:
    """Load a captioner; a Hub model is downloaded if this node has no copy.

    Raises:
        ModelError: the model is not on this node, differs from the one that was found, cannot be
            loaded, or does not support the precision asked for.
    """
    kind = find_kind(source.kind)
    check_arithmetic(source, model)
    model = model_here(source, model)
    kind.check_here(source, model)
    folder = safe_folder_here(source) if kind.has_files else None
    adapter = None if source.adapter is None else str(adapter_here(source.adapter))
    captioner = kind.load(folder, model.model_copy(update={"adapter": adapter}), generation)
    return kind.fitted(captioner, source.target)


def model_here(source: ModelSource, model: ModelConfig) -> ModelConfig:
    """Replace `model.precision=fast` by the precision that it means on this machine's device.

    Raises:
        ModelError: it means int8, which `model.compile` does not support.
    """
    settled = settled_model(model, source)
    if settled.precision != "fast" or source.folder is None:
        return settled
    # Imports torch, which takes seconds; a stub does without.
    from raycap.models.device import pick_device  # noqa: PLC0415

    precision = "auto" if pick_device().type != "cpu" else settled.fast_on_cpu
    if model.compile and precision == "int8":
        raise ModelError(
            "model.compile=true cannot go with model.precision=fast on this CPU, where it means "
            "int8: choose one of them",
            setting="model.compile",
        )
    logger.info("model_precision asked=fast precision=%s", precision)
    return settled.model_copy(update={"precision": precision, "fast_on_cpu": None})


def safe_folder_here(source: ModelSource) -> Path:
    """Return the model's folder on this node, after checking that it is the same model.

    A Hub model is downloaded if this node has no copy.

    Raises:
        ModelError: the folder is not on this node, or its files differ from those that were found.
    """
    folder = _folder_here(source)
    check_safe(folder)  # the digest does not cover files that are not part of the model
    check_layers(folder)
    return folder


def copy_model(
    source: ModelSource, folder: Path, generation: GenerationConfig, record: dict[str, Any]
) -> None:
    """Copy a model to a folder, with other generation settings.

    The model's files are copied unchanged. Files that an earlier copy has completed are kept.

    Args:
        source: A model in a folder on this machine.
        folder: The destination; created if it does not exist.
        generation: Written to `raycap.json`, and to `generation_config.json` unless that file is
            part of the model.
        record: Further keys of `raycap.json`.

    Raises:
        ModelError: the source does not exist or cannot be read, has an adapter, or the copy cannot
            be written.
    """
    refuse_adapter(source, "a calibrated model")
    kind = find_kind(source.kind)
    original = Path(source.folder or "")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if digest_folder(folder, kind.extra_files) != source.digest:
            _copy_files(kind, original, folder)
        kind_file = original / KIND_FILE
        before = read_json(kind_file) if kind_file.is_file() else {}
        kind.write_generation(folder, generation)
    except OSError as error:
        raise ModelError(
            f"{original}: cannot be copied to {folder} ({error.strerror}): make room, or give "
            "another output",
            uri=str(original),
        ) from error
    if digest_folder(folder, kind.extra_files) != source.digest:
        raise ModelError(
            f"{original}: changed while it was copied: run the same command again",
            uri=str(original),
        )
    saved = {"kind": kind.name, GENERATION: generation.model_dump(mode="json")}
    write_json(folder / KIND_FILE, {**before, **saved, **record})


def _folder_here(source: ModelSource) -> Path:
    if source.revision is not None:
        # Returns at once if the commit is cached, and the commit pins the content.
        from raycap.models.hub import download  # noqa: PLC0415  loads the Hub's library

        return download(source.name, source.revision)
    folder = DEMO_FOLDER if source.name == "demo" else Path(source.folder or "")
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: the model's folder is not on this node: put it at the same path on every "
            "node (a shared or copied folder), or give a model of the Hub",
            uri=str(folder),
        )
    if digest_folder(folder, find_kind(source.kind).extra_files) != source.digest:
        raise ModelError(
            f"{folder}: not the model this run started with (its files differ on this node, or "
            "have changed since): restore them, or start a new run",
            uri=str(folder),
        )
    return folder


def _copy_files(kind: CaptionerKind, original: Path, folder: Path) -> None:
    """Copy file by file, each atomically; links are followed.

    A calibrated model is a run's output as well: that run's records stay where they are. Above all
    its lock, in whose place this run's own may be.
    """
    left = {KIND_FILE, GENERATION_FILE} - set(kind.extra_files) | {LOCK, RUN, CALIBRATION}
    for path in sorted(path for pattern in SAFE_FILES for path in original.glob(pattern)):
        if path.name not in left and path.is_file():
            temporary = folder / f".{path.name}.tmp"
            shutil.copyfile(path, temporary)
            temporary.replace(folder / path.name)
