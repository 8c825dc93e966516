"""Result of a preflight: how fast each stage is, the bottleneck, duration and cost of the run.

    preflight/preflight.json        the Preflight below
    preflight/contact-sheet.html    a page with the sampled images

Both are in the output of the run to come, which neither reads nor lists them.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from raycap.runs.records import encode_json
from raycap.storage.base import Store

PREFLIGHT = "preflight/preflight.json"
CONTACT_SHEET = "preflight/contact-sheet.html"
MAX_PICTURES = 400
"""Images of the contact sheet; further sampled images are only captioned and counted."""

FETCH, DECODE, MODEL = "fetch", "decode", "model"
"""Stages of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Speed of one stage of a run."""

    name: str
    seconds_per_image: float
    """Mean over all sampled images, including those that failed earlier: per thread for `fetch`,
    per core for `decode`, per captioner for `model`."""
    at_a_time: int
    """Parallel threads, cores or captioners of the run."""
    images_per_s: float | None
    """Of all of them together; None if the time was 0 or does not predict that of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Outcome of the sampled images."""

    num_images: int
    num_ok: int
    failed: dict[str, int] = field(default_factory=dict)
    """Failed images by error code."""
    mean_words: float
    """Words per caption."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Number of captions by their number of words."""

    @property
    def num_failed(self) -> int:
        """Number of images without a caption."""
        return self.num_images - self.num_ok

    @property
    def failed_share(self) -> float:
        """Failed images as a share of all images, 0 to 1."""
        return self.num_failed / self.num_images if self.num_images else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Predicted speed, duration and cost of a run."""

    stages: tuple[Stage, ...]
    bottleneck: str
    """The slowest stage."""
    images_per_s: float
    run_s: float
    """Seconds for all pending images, including the start."""
    num_captioners: int
    unit: str
    """What hours are counted of: `GPU`, or `captioner` on a cluster without GPUs."""
    unit_hours: float
    """Sum over all units."""
    cost: float | None
    """None if no price is given."""
    batch_size: int
    may_grow: bool
    """Whether batches larger than the sample allowed may be faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensAhead:
    """Predicted tokens of a run at endpoints, and their cost."""

    num_prompt_tokens: int
    """Tokens that the model will read."""
    num_tokens: int
    """Tokens that it will generate."""
    cost: float | None
    """By the prices in the settings; None without prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """Result of a preflight. In `preflight/preflight.json` of the output."""

    source: str
    output: str
    contact_sheet: str
    """Address of the page with the sampled images."""
    num_images: int
    """Images of the source."""
    num_pending: int
    """Images that are still to be captioned."""
    num_wanted: int
    """Images that were drawn; fewer were captioned if time ran out."""
    sample: Counts
    """Outcome of those that were captioned."""
    sample_s: float
    """Seconds for the sample, including loading the model."""
    estimate: Estimate | None
    """None if no image reached the model."""
    ends_at: str | None
    """When a run that begins now ends, in UTC; None if unknown or centuries away."""
    price_per_hour: float | None
    """As configured, per GPU or captioner."""
    tokens: TokensAhead | None = None
    """Only if the model is at endpoints that tell the tokens."""
    captions_once: bool = False
    """Whether the run captions images that are the same bytes once, unlike the sample."""
    model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    made_at: str
    """In UTC."""


def write_preflight(store: Store, found: Preflight) -> None:
    """Write `preflight/preflight.json`."""
    store.write(PREFLIGHT, encode_json(asdict(found)))
