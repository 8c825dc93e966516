"""Checkpoints: everything that a run needs to continue with bit-identical results.

    checkpoints/step-00001200/weights.safetensors     trained parameters, and buffers
    checkpoints/step-00001200/optimizer.safetensors   AdamW's moments
    checkpoints/step-00001200/average.safetensors     averaged weights, with ema_decay
    checkpoints/step-00001200/checkpoint.json         the state, and sizes and digests of the files

`checkpoint.json` is written last: a checkpoint without it does not exist. If the newest is damaged,
the one before is used. No pickle is ever read.

They are in raycap's own store rather than Ray Train's `storage_path`: one set of credentials,
retries and atomic writes serves the whole output, a position within an epoch can be kept, and a
damaged checkpoint, on which Ray Train would fail, is detected. States of random generators are not
stored: order, augmentation and dropout are derived from the seed and the position.

The functions at the end write and read whole folders in a store, for models as well.
"""

import errno
import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from raycap.errors import DatasetError, ObjectNotFound, StorageError
from raycap.results.training import EpochRecord
from raycap.runs.records import encode_json, now, read_json
from raycap.storage.base import KEY, Store
from raycap.storage.local import LocalStore
from raycap.training.learner import Learner

CHECKPOINTS = "checkpoints/"
_RECORD = "checkpoint.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_AVERAGE = "average.safetensors"
_NAME = re.compile(r"^checkpoints/(step-\d+)/")
_KEPT = 2
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(slots=True, kw_only=True)
class State:
    """Position of a training run."""

    epoch: int = 0
    """Epochs that are done."""
    step: int = 0
    """Steps done in the epoch."""
    num_steps: int = 0
    """Steps done in all epochs."""
    max_captions: int
    """Maximum captions per micro-batch."""
    loss_sum: float = 0.0
    """Sum over the epoch's steps, as are the numbers below."""
    num_tokens: int = 0
    num_images: int = 0
    num_unreadable: int = 0
    train_s: float = 0.0
    """Seconds, over all invocations."""
    history: list[EpochRecord] = field(default_factory=list)

    def end_epoch(self, record: EpochRecord) -> None:
        """Advance to the next epoch."""
        self.history.append(record)
        self.epoch += 1
        self.step = self.num_tokens = self.num_images = self.num_unreadable = 0
        self.loss_sum = self.train_s = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values; floats keep every digit."""
        return asdict(self)


_FORM = TypeAdapter(State)


def read_state(values: dict[str, Any]) -> State:
    """Read the output of `State.to_json`.

    Raises:
        DatasetError: the values are not a state.
    """
    try:
        return _FORM.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise DatasetError(f"{place}: {first['msg']}") from error


def write_checkpoint(store: Store, learner: Learner, state: State) -> str:
    """Write a checkpoint, and delete all but the newest two. Return its name."""
    name = f"step-{state.num_steps:08d}"
    tensors = {_WEIGHTS: _weights(learner), _OPTIMIZER: _moments(learner)}
    if learner.average is not None:
        tensors[_AVERAGE] = learner.average.values
    files = {file: _upload(store, f"{_key(name)}{file}", held) for file, held in tensors.items()}
    record = {
        "state": state.to_json(),
        "scaler": learner.scaler.state_dict(),
        "files": files,
        "created_at": now(),
    }
    store.write(f"{_key(name)}{_RECORD}", encode_json(record))
    _rotate(store, name)
    return name


def keep_newest(store: Store) -> None:
    """Delete all checkpoints but the newest."""
    for name in find_checkpoints(store)[1:]:
        _delete(store, name)


def find_checkpoints(store: Store) -> list[str]:
    """Return the names of complete checkpoints, the newest first."""
    keys = list_keys(store, CHECKPOINTS)
    found = {match[1] for key in keys if key.endswith(_RECORD) and (match := _NAME.match(key))}
    return sorted(found, reverse=True)


def restore_checkpoint(store: Store, name: str, learner: Learner) -> State:
    """Restore a learner, and return the state.

    Raises:
        DatasetError: the checkpoint is damaged; the learner may be partly restored.
        StorageError: the store refuses.
    """
    record = read_json(store, f"{_key(name)}{_RECORD}")
    try:
        files = {
            file: _download(store, f"{_key(name)}{file}", info)
            for file, info in record["files"].items()
        }
        state = read_state(record["state"])
        _put_weights(learner, files[_WEIGHTS])
        _put_moments(learner, files[_OPTIMIZER])
        if learner.average is not None:
            for key, value in learner.average.values.items():
                value.copy_(files[_AVERAGE][key])
        learner.scaler.load_state_dict(record["scaler"])
    except ObjectNotFound as error:
        raise DatasetError(f"a file is missing: {error}") from error
    except (KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"{type(error).__name__}: {reason}") from error
    return state


def _key(name: str) -> str:
    return f"{CHECKPOINTS}{name}/"


def _weights(learner: Learner) -> dict[str, Tensor]:
    """Return trained parameters and buffers; the initial model holds everything else."""
    kept = learner.network.state_dict().keys()
    buffers = {name: value for name, value in learner.network.named_buffers() if name in kept}
    return {**learner.trained, **buffers}


def _moments(learner: Learner) -> dict[str, Tensor]:
    return {
        f"{key}/{name}": value
        for name, parameter in learner.trained.items()
        for key, value in learner.optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def _put_weights(learner: Learner, held: dict[str, Tensor]) -> None:
    for name, value in _weights(learner).items():
        value.copy_(held[name])


def _put_moments(learner: Learner, held: dict[str, Tensor]) -> None:
    for key, value in held.items():
        moment, _, name = key.partition("/")
        parameter = learner.trained[name]
        # AdamW counts its steps on the CPU.
        device = "cpu" if moment == "step" else parameter.device
        learner.optimizer.state[parameter][moment] = value.to(device)


def _upload(store: Store, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write tensors to a file; return its size and digest."""
    with temporary_folder("checkpoint") as folder:
        path = folder / "tensors"
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with writing_to(folder):
            safetensors.torch.save_file(plain, path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        info = {"num_bytes": path.stat().st_size, "sha256": digest}
        store.upload(key, path)
    return info


def _download(store: Store, key: str, info: dict[str, Any]) -> dict[str, Tensor]:
    data = store.read(key)
    if hashlib.sha256(data).hexdigest() != info["sha256"]:
        raise ValueError(f"{key} has another digest than recorded ({len(data):,} bytes)")
    tensors: dict[str, Tensor] = safetensors.torch.load(data)
    return tensors


def _rotate(store: Store, newest: str) -> None:
    """Delete all but the newest checkpoints, and incomplete ones that are older."""
    kept = [name for name in find_checkpoints(store) if name <= newest][:_KEPT]
    for name in sorted(set(_names(store)) - set(kept)):
        _delete(store, name)


def _delete(store: Store, name: str) -> None:
    # The record first: a checkpoint is complete or does not exist.
    store.delete(f"{_key(name)}{_RECORD}")
    store.delete_all(_key(name))


def _names(store: Store) -> Iterator[str]:
    for key in list_keys(store, CHECKPOINTS):
        if match := _NAME.match(key):
            yield match[1]


def list_keys(store: Store, prefix: str) -> list[str]:
    """Return all keys under a prefix, sorted."""
    return [key for page in store.list(prefix) for key in page[KEY].to_pylist()]


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """Yield a folder of this machine that is deleted after the block.

    Raises:
        StorageError: it cannot be made.
    """
    with ExitStack() as opened:
        with writing_to(Path(gettempdir())):
            folder = opened.enter_context(TemporaryDirectory(prefix=f"raycap-{name}-"))
        yield Path(folder)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a failure to write files to a temporary folder into one line.

    Raises:
        StorageError: the disk is full, or refuses.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in _DISK_ERRORS:
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise StorageError(
            f"{folder}: a temporary file cannot be written ({reason}): make room there, or set "
            "TMPDIR to a folder with more room on every node",
            uri=str(folder),
        ) from error


@contextmanager
def replacing(store: Store, prefix: str) -> Iterator[Path]:
    """Yield an empty folder; its content replaces all objects under the prefix after the block.

    Each file is replaced atomically, the folder is not: during the upload, a reader may see new
    files beside old ones.
    """
    with temporary_folder("model") as folder:
        with writing_to(folder):
            yield folder
        before = set(list_keys(store, prefix))
        keys = {
            f"{prefix}{path.relative_to(folder).as_posix()}": path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for key, path in keys.items():
            store.upload(key, path)
        for key in before - keys.keys():
            store.delete(key)


@contextmanager
def local_copy(store: Store, prefix: str) -> Iterator[Path]:
    """Yield the files under a prefix as a local folder, which may be the store's own."""
    if isinstance(store, LocalStore):
        yield Path(store.address(prefix.rstrip("/")))
        return
    with TemporaryDirectory(prefix="raycap-model-") as name:
        for key in list_keys(store, prefix):
            path = Path(name) / key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(key))
        yield Path(name)
