"""Claim of an output by a run: `run.json`, with the fingerprint of the run."""

from typing import Any

from raycap.captioning.cascade import Cascade
from raycap.config import CaptionConfig
from raycap.errors import DatasetError, ObjectNotFound, RunConflict
from raycap.models.base import ModelSource
from raycap.runs.records import RUN, difference, encode_json, now, read_json, versions
from raycap.storage.base import Store

LOCK = "lock.json"


def fingerprint(
    source: dict[str, Any],
    model: ModelSource,
    config: CaptionConfig,
    cascade: Cascade | None = None,
) -> dict[str, Any]:
    """Say what decides a run's captions: two runs alike in this may share an output.

    A cascade is named only where there is one: what was begun without goes on.
    """
    mark = {
        **source,
        "model": {**model.identity(), **config.model.arithmetic()},
        "generation": config.generation.model_dump(mode="json"),
        "image": config.image.model_dump(mode="json"),
    }
    return mark if cascade is None else {**mark, "cascade": cascade.describe()}


def claim_output(store: Store, mark: dict[str, Any], config: CaptionConfig) -> None:
    """Create `run.json`, or make sure that the one that stands is of the same run.

    Raises:
        RunConflict: the output belongs to another run; the message shows the difference.
    """
    run = {
        "fingerprint": mark,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "created_at": now(),
    }
    if not store.create(RUN, encode_json(run)):
        check_claim(store, mark)


def check_claim(store: Store, mark: dict[str, Any]) -> None:
    """Make sure that an output is of a run with this fingerprint, or of none yet.

    Raises:
        RunConflict: it belongs to another run; the message shows the difference.
    """
    try:
        theirs = read_json(store, RUN).get("fingerprint", {})
    except ObjectNotFound:
        return
    if theirs != mark:
        raise RunConflict(
            f"{store.uri}: belongs to another run; give another output, or the settings of that "
            f"run (- that run, + this one):\n{difference(theirs, mark)}"
        )


def source_dataset(run: dict[str, Any]) -> str | None:
    """Give the address of the caption dataset that a run captions; None if its source is none.

    Args:
        run: as `read_run` gives it.
    """
    mark = run.get("fingerprint", {})
    return mark["source"] if "split" in mark else None


def read_run(store: Store) -> dict[str, Any]:
    """Read `run.json`. Raises DatasetError where there is none."""
    try:
        return read_json(store, RUN)
    except ObjectNotFound:
        raise DatasetError(
            f"{store.uri}: is not an output of raycap (it has no {RUN}); give the folder or "
            "bucket prefix that `raycap caption` wrote to"
        ) from None
