"""Claim of an output by a run: `run.json`, with the fingerprint of the run."""

from typing import Any

from raycap.errors import DatasetError, ObjectNotFound
from raycap.runs.records import RUN, read_json
from raycap.storage.base import Store


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
