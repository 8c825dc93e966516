"""`raycap doctor`: all checks, one after the other, told as they come."""

from functools import partial

from raycap.config import StorageConfig
from raycap.doctor.check import Checks, told
from raycap.doctor.machine import check_machine
from raycap.doctor.reach import check_cluster, check_model, check_output, check_source


def examine(
    *,
    source: str | None = None,
    output: str | None = None,
    model: str | None = None,
    storage: StorageConfig | None = None,
) -> Checks:
    """Look at this machine and its Ray, and at what is named.

    Args:
        source: images to be captioned: the first are listed, one is read.
        output: where captions are to go: a small file is written there, and deleted.
        model: a model to load.
        storage: how stores are reached.

    Yields:
        What each check found, as soon as it is known.
    """
    config = storage or StorageConfig()
    yield from check_machine()
    yield told("Ray", check_cluster)
    if source is not None:
        yield told("source", partial(check_source, source, config))
    if output is not None:
        yield told("output", partial(check_output, output, config))
    if model is not None:
        yield told("model", partial(check_model, model))
