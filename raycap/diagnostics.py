"""Checks before a run: this machine, the Ray cluster, the source, the output, and the model.

Machine checks cover Python and packages, cores, accelerators, memory, shared memory and disk.
"""

import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycap.captioning.resources import fit_resources
from raycap.captioning.source import open_source
from raycap.cluster.start import ray_cluster
from raycap.config import EngineConfig, GenerationConfig, ImageConfig, ModelConfig, StorageConfig
from raycap.errors import UNREADABLE, ImageError, ObjectNotFound, RaycapError
from raycap.images.decoding import decode
from raycap.models.device import describe_accelerators
from raycap.models.kinds import find_kind
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.runs.records import versions
from raycap.schema import IMAGE_ID, URI
from raycap.storage.address import redact
from raycap.storage.base import KEY
from raycap.storage.probe import check_single_writer
from raycap.storage.stores import ImageReader, open_store


class Verdict(StrEnum):
    """Result of a check."""

    OK = "ok"
    POOR = "poor"
    """Runs work, but are slow or fail under load."""
    FAILED = "failed"
    """Runs that need this fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check and its result."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    """What to do if the verdict is not `ok`."""


def checked(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; turn an error of raycap, which says what to do, into a failed check."""
    try:
        return check()
    except (RaycapError, ImageError) as error:
        return Check(name=name, verdict=Verdict.FAILED, found=" ".join(str(error).split()))


Checks = Iterator[Check]


_GB = 1e9
_NODE_WAIT_S = 60.0
_LEAST_MEMORY_GB = 4.0
_LEAST_DISK_GB = 10.0
_SHARED_SHARE = 0.3  # of memory: what Ray takes for its object store
_SHARED = "/dev/shm"  # noqa: S108  the system's own name


def check_machine() -> Checks:
    """Check this machine. Imports torch, which takes seconds."""
    yield _python()
    yield _cores()
    yield _accelerators()
    yield _memory()
    if os.path.isdir(_SHARED):
        yield _shared_memory()
    yield _disk()


def _python() -> Check:
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    found = f"Python {platform.python_version()}, {named}, torchvision {version('torchvision')}"
    return Check(name="software", verdict=Verdict.OK, found=found)


def _cores() -> Check:
    usable, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{usable} of {all_cores} cores"
    if usable < all_cores:
        remedy = "Ray counts all cores, but this process may use fewer: start Ray with --num-cpus"
        return Check(name="cores", verdict=Verdict.POOR, found=found, remedy=remedy)
    return Check(name="cores", verdict=Verdict.OK, found=found)


def _accelerators() -> Check:
    found = describe_accelerators()
    if found.devices:
        return Check(name="accelerators", verdict=Verdict.OK, found="; ".join(found.devices))
    if found.is_built_for_one and shutil.which("nvidia-smi"):
        return Check(
            name="accelerators",
            verdict=Verdict.FAILED,
            found=f"a GPU driver is installed, but torch ({found.build}) sees no GPU",
            remedy="install a torch built for the CUDA of the driver (see `nvidia-smi`), and give "
            "the container its GPUs (`--gpus all`)",
        )
    return Check(
        name="accelerators",
        verdict=Verdict.POOR,
        found=f"none (torch is built for {found.build})",
        remedy="BLIP-base takes about 1 s per image on a CPU; a GPU captions hundreds per second",
    )


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found = f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB free"
    if memory.available / _GB < _LEAST_MEMORY_GB:
        remedy = "BLIP-base and Ray need about 4 GB: close other programs, or use a larger machine"
        return Check(name="memory", verdict=Verdict.POOR, found=found, remedy=remedy)
    return Check(name="memory", verdict=Verdict.OK, found=found)


def _shared_memory() -> Check:
    size = shutil.disk_usage(_SHARED).total
    wanted = _SHARED_SHARE * psutil.virtual_memory().total
    found = f"{size / _GB:.1f} GB"
    if size < wanted:
        return Check(
            name="shared memory",
            verdict=Verdict.POOR,
            found=found,
            remedy="Ray's object store uses the disk instead, which is slow: in a container, set "
            f"--shm-size={wanted / _GB:.0f}g (Kubernetes: an emptyDir in Memory at {_SHARED})",
        )
    return Check(name="shared memory", verdict=Verdict.OK, found=found)


def _disk() -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / _GB
    found = f"{free:.0f} GB free at {folder}"
    if free < _LEAST_DISK_GB:
        remedy = "Ray spills and logs there: free some space, or set RAY_TMPDIR to another disk"
        return Check(name="disk", verdict=Verdict.POOR, found=found, remedy=remedy)
    return Check(name="disk", verdict=Verdict.OK, found=found)


def check_cluster(is_fixed: bool) -> Check:
    """Count the resources of the cluster that this process is connected to."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    size = "of fixed size" if is_fixed else "which may grow"
    found = (
        f"{len(_alive())} node(s), {size}: {resources.get('CPU', 0):g} CPUs, "
        f"{resources.get('GPU', 0):g} GPUs, object store "
        f"{resources.get('object_store_memory', 0) / 1e9:.1f} GB"
    )
    return Check(name="Ray", verdict=Verdict.OK, found=found)


def check_captioners(engine: EngineConfig, model: str | None, *, is_fixed: bool) -> Check:
    """Fit the captioners of these settings into the cluster.

    Raises:
        ConfigError: they do not fit a cluster that cannot grow.
    """
    uses_gpus = True
    with suppress(RaycapError):  # the check of the model reports it
        uses_gpus = model is None or find_kind(find_model(model).kind).uses_gpus
    fitted = fit_resources(engine, uses_gpus=uses_gpus, is_fixed=is_fixed)
    found = (
        f"{fitted.actors.min}..{fitted.actors.max}, each with {fitted.cpus_per_actor:g} CPUs and "
        f"{fitted.gpus_per_actor:g} GPUs"
    )
    return Check(name="captioners", verdict=Verdict.OK, found=found)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def check_nodes(source: str | None, output: str | None, config: StorageConfig) -> Check:
    """Read an image of the source and list the output on every node that runs.

    Nodes can have other credentials, routes, mounts and versions than the driver.
    """
    look: Any = ray.remote(num_cpus=0, max_retries=0)(_look_from_node)
    read = None if source is None else _read_one(source, config)
    uri = None if read is None else read.uri
    asked = {}
    for node in _alive():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        place_name = str(node["NodeManagerHostname"])
        answer = look.options(scheduling_strategy=place).remote(uri, output, config)
        asked[answer] = place_name
    ready, late = ray.wait([*asked], num_returns=len(asked), timeout=_NODE_WAIT_S)
    wrong = [f"{asked[answer]}: no answer in {_NODE_WAIT_S:g} s" for answer in late]
    for answer in ready:
        said = _answer_of(answer)
        if said is not None:
            wrong.append(f"{asked[answer]}: {said}")
    if wrong:
        return Check(
            name="nodes",
            verdict=Verdict.FAILED,
            found="; ".join(sorted(wrong)),
            remedy="install the same raycap everywhere, and give every node the same credentials "
            "(variables of the environment, a role of the machine) and mounts",
        )
    what = "the source and the output" if source and output else "the source"
    found = f"{len(asked)} of {len(asked)} node(s) can read {what if source else 'the output'}"
    return Check(name="nodes", verdict=Verdict.OK, found=found)


def _look_from_node(uri: str | None, output: str | None, config: StorageConfig) -> str | None:
    """Read what a load task of a run reads; return what is wrong, in one line."""
    try:
        if uri is not None:
            ImageReader(config).read(uri, ImageConfig().max_bytes)
        if output is not None:
            next(iter(open_store(output, config).list()), None)
    except (RaycapError, ImageError) as error:
        return " ".join(str(error).split())
    return None


def _answer_of(answer: Any) -> str | None:
    try:
        said: str | None = ray.get(answer)
    except RayError as error:  # such as a node without raycap
        return " ".join(str(error).split())[-200:]
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """An image of a source that was read and decoded."""

    uri: str
    """Its address, with what it may contain of secrets."""
    found: str
    """What was found, for the user."""
    failed: list[str]
    """What is wrong with each image before it."""


_TRIED_IMAGES = 5


def _read_one(source: str, config: StorageConfig) -> _Read | None:
    """Read the first images of a source until one can be decoded; None if there are no images.

    Raises:
        RaycapError: the source cannot be listed, or none of these images can be read.
        ImageError: none of these images can be decoded.
    """
    first = next(iter(open_source(source, config).tables), None)
    if first is None or not len(first):
        return None
    errors: list[Exception] = []
    for row in first.slice(0, _TRIED_IMAGES).to_pylist():
        try:
            found = f"at least {len(first):,} images; {_describe(row, config)}"
        except (*UNREADABLE, ImageError) as error:
            errors.append(error)
            continue
        return _Read(uri=row[URI], found=found, failed=[str(error) for error in errors])
    raise errors[0]


def _describe(row: dict[str, Any], config: StorageConfig) -> str:
    """Read and decode an image, and describe it."""
    images = ImageConfig()
    started = time.perf_counter()
    data = ImageReader(config).read(row[URI], images.max_bytes)
    read_s = time.perf_counter() - started
    image = decode(data, find_model("stub").target, images)
    return (
        f"{redact(row[IMAGE_ID])}: {len(data):,} bytes in {1000 * read_s:.0f} ms, "
        f"{image.width_px} x {image.height_px} pixels"
    )


def check_source(source: str, config: StorageConfig) -> Check:
    """List the first images of a source, and read and decode one.

    Raises:
        RaycapError: the source cannot be listed, or none of its first images can be read.
        ImageError: none of them can be decoded.
    """
    name = "source"
    read = _read_one(source, config)
    if read is None:
        remedy = "check the address; only files with an image suffix count as images"
        return Check(name=name, verdict=Verdict.FAILED, found="no images", remedy=remedy)
    if read.failed:
        return Check(
            name=name,
            verdict=Verdict.POOR,
            found=f"{read.found}; cannot be read: {'; '.join(read.failed)}",
            remedy="such images become failed rows: check their permissions, if they are many",
        )
    return Check(name=name, verdict=Verdict.OK, found=read.found)


def check_output(output: str, config: StorageConfig) -> Check:
    """Write, list, read and delete a small file at the output.

    Raises:
        RaycapError: the store refuses one of these.
    """
    store = open_store(output, config)
    key = f"raycap-doctor-{secrets.token_hex(8)}.json"
    data = b'{"written by": "raycap doctor"}\n'
    try:
        is_new, is_new_again = store.create(key, data), store.create(key, b"another")
        listed = {found for page in store.list() for found in page[KEY].to_pylist()}
        is_whole = store.read(key) == data and key in listed
    finally:
        with suppress(ObjectNotFound):
            store.delete(key)
    if not is_new or is_new_again or not is_whole:
        return Check(
            name="output",
            verdict=Verdict.FAILED,
            found=f"{redact(store.uri)}: a conditional write overwrote an existing object",
            remedy="two runs could overwrite each other: use a store with conditional writes",
        )
    check_single_writer(store)
    found = f"{redact(store.uri)}: conditional write, list, read and delete work"
    return Check(name="output", verdict=Verdict.OK, found=found)


def check_model(name: str) -> Check:
    """Load a model on this machine and caption a grey image.

    Raises:
        ModelError: the model cannot be found or loaded.
    """
    source = find_model(name)
    started = time.perf_counter()
    captioner = load_captioner(source, ModelConfig(name=name), GenerationConfig())
    loaded_s = time.perf_counter() - started
    grey = np.full((1, source.target.height_px, source.target.width_px, 3), 128, np.uint8)
    started = time.perf_counter()
    (caption,) = captioner.caption(grey)
    found = (
        f"{name}: loaded in {loaded_s:.1f} s; captioned a grey image as {caption.text!r} in "
        f"{time.perf_counter() - started:.2f} s"
    )
    return Check(name="model", verdict=Verdict.OK, found=found)


def doctor(
    *,
    source: str | None = None,
    output: str | None = None,
    model: str | None = None,
    storage: StorageConfig | None = None,
    engine: EngineConfig | None = None,
) -> list[Check]:
    """Check this machine, its Ray cluster, and the source, output and model that are given.

    Args:
        source: images to caption; the first ones are listed, and one of the first five that can
            be read is decoded, by this process; every node of the cluster reads it.
        output: a folder or `s3://bucket/prefix`; a small file is written there and deleted.
        model: a model to load, as the setting `model.name`.
        storage: how to reach stores; defaults if None.
        engine: the captioners that a run would ask of the cluster; defaults if None.

    Returns:
        The result of each check. A failed check is a result, not an exception.
    """
    return list(examine(source=source, output=output, model=model, storage=storage, engine=engine))


def examine(
    *,
    source: str | None = None,
    output: str | None = None,
    model: str | None = None,
    storage: StorageConfig | None = None,
    engine: EngineConfig | None = None,
) -> Checks:
    """Run the checks of `doctor`, and yield each result as soon as it is known."""
    config = storage or StorageConfig()
    yield from check_machine()
    given = []
    if source is not None:
        given.append(checked("source", partial(check_source, source, config)))
        yield given[-1]
    if output is not None:
        given.append(checked("output", partial(check_output, output, config)))
        yield given[-1]
    # What the driver cannot reach is known already; the nodes would only repeat it.
    is_reached = bool(given) and all(check.verdict is not Verdict.FAILED for check in given)
    yield from _examine_cluster(
        (source, output) if is_reached else None, config, engine or EngineConfig(), model
    )
    if model is not None:
        yield checked("model", partial(check_model, model))


def _examine_cluster(
    stores: tuple[str | None, str | None] | None,
    config: StorageConfig,
    engine: EngineConfig,
    model: str | None,
) -> Checks:
    with ExitStack() as opened:
        try:
            is_fixed = opened.enter_context(ray_cluster())
        except RaycapError as error:
            found = " ".join(str(error).split())
            yield Check(name="Ray", verdict=Verdict.FAILED, found=found)
            return
        yield checked("Ray", partial(check_cluster, is_fixed))
        yield checked("captioners", partial(check_captioners, engine, model, is_fixed=is_fixed))
        if stores is not None:
            yield checked("nodes", partial(check_nodes, *stores, config))
