"""Find and identify the model a user named, without loading it: no torch is imported here.

A name is, in this order: `stub`, `demo`, a local folder, a Hub name or `name@revision`.
"""

import hashlib
import os
import re
from pathlib import Path

from raycap.config import ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.base import ModelSource
from raycap.models.folders import (
    KIND_FILE,
    PICKLE_PATTERNS,
    VLM,
    WEIGHT_FILE,
    check_folder,
    digest_folder,
    read_json,
    read_kind,
)
from raycap.models.hub import download
from raycap.models.safety import check_safe
from raycap.models.saved import read_generation
from raycap.models.scratch.folders import check_scratch_folder
from raycap.models.vlm.folders import check_vlm_folder
from raycap.storage.address import redact

DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
"""The small trained captioner that ships with raycap."""

STUB_TARGET = Target(width_px=64, height_px=64)
"""The pixels of the `stub` model."""

_STUB_VERSION = "raycap stub 1"  # raised whenever the stub's captions change
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@\S+)?")


def find_model(name: str) -> ModelSource:
    """Find a model by name, fetch its files where they are not local, check and identify it.

    Args:
        name: `stub`, `demo`, a local folder, a Hub name, or a Hub `name@revision`. What starts
            with `.`, `/` or `~`, or exists, is a path.

    Raises:
        ModelError: it cannot be found or is not a model raycap can caption with.
    """
    if name == "stub":
        return _stub(name)
    if name == "demo":
        return _from_folder(DEMO_FOLDER, name, None)
    path = Path(os.path.expanduser(name))  # unlike Path.expanduser leaves an unknown ~user as it is
    if name.startswith((".", "/", "~")) or (name and path.exists()):
        if path.is_file() and any(path.match(pattern) for pattern in PICKLE_PATTERNS):
            raise ModelError(
                f"{name}: a pickled checkpoint, which can run code when loaded and is refused: "
                f"point at a folder with {WEIGHT_FILE}"
            )
        if not path.is_dir():
            raise ModelError(f"{name}: no such folder: point at the folder of a saved model")
        return _from_folder(path.resolve(), name, None)
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"{redact(name)!r}: not a model: give a local folder, a Hub name (or name@revision), "
            "demo or stub"
        )
    repository, _, revision = name.partition("@")
    folder = download(repository, revision or None)
    # The cache names a snapshot after its commit, which pins what a branch or tag pointed to.
    return _from_folder(folder, repository, folder.name)


def check_arithmetic(source: ModelSource, model: ModelConfig) -> None:
    """Make sure that no arithmetic is asked for that this kind of model does not have.

    Raises:
        ModelError: `model.compile`, or 8 bits, for a model that is no BLIP.
    """
    if source.kind == "blip":
        return
    if model.compile:
        raise ModelError(
            f"model.compile=true is for BLIP models only; {source.name} is a {source.kind}: leave "
            "it off"
        )
    if model.precision == "int8":
        raise ModelError(
            f"model.precision=int8 is for BLIP models only; {source.name} is a {source.kind}: set "
            "model.precision=auto"
        )


def _stub(name: str) -> ModelSource:
    return ModelSource(
        kind="stub",
        name=name,
        revision=None,
        folder=None,
        digest=hashlib.sha256(_STUB_VERSION.encode()).hexdigest(),
        target=STUB_TARGET,
    )


def _from_folder(folder: Path, name: str, revision: str | None) -> ModelSource:
    kind_file = folder / KIND_FILE
    if kind_file.is_file() and read_json(kind_file).get("kind") == "stub":
        return _stub(name)
    kind = read_kind(folder)
    target = _check(folder, kind)
    check_safe(folder)
    return ModelSource(
        kind=kind,
        name=name,
        revision=revision,
        folder=str(folder),
        digest=digest_folder(folder, kind),
        target=target,
        generation=read_generation(folder),
    )


def _check(folder: Path, kind: str) -> Target:
    if kind == "blip":
        return check_folder(folder).target
    if kind == VLM:
        return check_vlm_folder(folder)
    return check_scratch_folder(folder).preprocessing.target
