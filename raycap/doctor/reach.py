"""What a run reaches for: the cluster, its images, its output, its model."""

import secrets
import time
from contextlib import suppress

import numpy as np
import ray

from raycap.bulk.source import open_source
from raycap.cluster import ray_cluster
from raycap.config import GenerationConfig, ImageConfig, ModelConfig, StorageConfig
from raycap.doctor.check import Check, Verdict
from raycap.errors import ObjectNotFound
from raycap.images import decode
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.schema import IMAGE_ID, URI
from raycap.storage.address import redact
from raycap.storage.base import KEY
from raycap.storage.stores import ImageReader, open_store


def check_cluster() -> Check:
    """Attach to the cluster that is named, or start a local Ray, and count what it has.

    Raises:
        ConfigError: the named cluster does not answer.
    """
    with ray_cluster() as is_local:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        num_nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    kind = "a local Ray, started for this" if is_local else "the named cluster"
    found = (
        f"{kind}: {num_nodes} node(s), {resources.get('CPU', 0):g} CPUs, "
        f"{resources.get('GPU', 0):g} GPUs, object store "
        f"{resources.get('object_store_memory', 0) / 1e9:.1f} GB"
    )
    return Check(name="Ray", verdict=Verdict.WELL, found=found)


def check_source(source: str, config: StorageConfig) -> Check:
    """List the first images of a source, and read and decode one.

    Raises:
        RaycapError: it cannot be listed.
        ImageError: the image cannot be decoded.
    """
    name = "source"
    first = next(iter(open_source(source, config).tables), None)
    if first is None or not len(first):
        remedy = "check the address; files count as images by their suffix"
        return Check(name=name, verdict=Verdict.FAILED, found="no images", remedy=remedy)
    image_id, uri = first[IMAGE_ID][0].as_py(), first[URI][0].as_py()
    images = ImageConfig()
    started = time.perf_counter()
    data = ImageReader(config).read(uri, images.max_bytes)
    read_s = time.perf_counter() - started
    image = decode(data, find_model("stub").target, images)
    found = (
        f"{len(first):,} images or more; {redact(image_id)}: {len(data):,} bytes in "
        f"{1000 * read_s:.0f} ms, {image.width_px} x {image.height_px} pixels"
    )
    return Check(name=name, verdict=Verdict.WELL, found=found)


def check_output(output: str, config: StorageConfig) -> Check:
    """Write, list, read and delete a small file where the output is to be.

    Raises:
        RaycapError: one of these is refused.
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
            found=f"{redact(store.uri)}: does not keep what is written only where nothing stands",
            remedy="two runs could write over each other: use a store with conditional writes",
        )
    found = f"{redact(store.uri)}: can be written conditionally, listed, read and deleted"
    return Check(name="output", verdict=Verdict.WELL, found=found)


def check_model(name: str) -> Check:
    """Load a model on this machine, and caption a grey image.

    Raises:
        ModelError: it cannot be found or loaded.
    """
    source = find_model(name)
    started = time.perf_counter()
    captioner = load_captioner(source, ModelConfig(name=name), GenerationConfig())
    loaded_s = time.perf_counter() - started
    grey = np.full((1, source.target.height_px, source.target.width_px, 3), 128, np.uint8)
    started = time.perf_counter()
    (caption,) = captioner.caption(grey)
    found = (
        f"{name}: loaded in {loaded_s:.1f} s; a grey image is {caption.text!r}, said in "
        f"{time.perf_counter() - started:.2f} s"
    )
    return Check(name="model", verdict=Verdict.WELL, found=found)
