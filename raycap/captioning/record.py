"""What an output remembers of its run: `run.json` at the start, `summary.json` at the end."""

from dataclasses import asdict, dataclass, field
from typing import Any

from raycap.errors import DatasetError, ObjectNotFound
from raycap.runs.records import RUN, encode_json, read_json
from raycap.storage.base import Store

SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run came to. In `summary.json`, whose presence means: every image has its row."""

    output: str
    source: str
    num_images: int
    num_ok: int
    num_failed: int
    failed: dict[str, int] = field(default_factory=dict)
    """Failed images by error code."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files of the source that are not images, by suffix; `duplicate` counts repeated entries."""
    mean_words: float
    """Words a caption."""
    num_bytes: int
    """Bytes read for all images."""
    num_captioned: int
    """Images that this invocation answered; the others stood already."""
    wall_s: float
    """Seconds this invocation took, Ray's start included."""
    images_per_s: float
    """Images that this invocation answered in a second of its stream, Ray's start not counted."""
    model: dict[str, Any] = field(default_factory=dict)
    cascade: dict[str, Any] = field(default_factory=dict)
    """Of a run with a second model: that `model`, `below`, `num_images` that went to it, and
    `num_failed` of them, which kept the first model's caption."""
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str = ""

    @property
    def failed_share(self) -> float:
        """Failed images of all."""
        return self.num_failed / self.num_images if self.num_images else 0.0


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


def is_complete(store: Store) -> bool:
    """Whether the output has a summary: every image had its row when it was written."""
    return store.exists(SUMMARY)


def write_summary(store: Store, summary: Summary) -> None:
    """Write `summary.json`, the last file of a complete run."""
    store.write(SUMMARY, encode_json(asdict(summary)))
