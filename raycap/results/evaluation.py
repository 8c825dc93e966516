"""Result of an evaluation: scores, intervals and comparisons of captioning systems.

evaluation.json              the Evaluation below
scores/part-000.parquet      SCORES rows of the first system, sorted by image id; and so on
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from raycap.errors import DatasetError
from raycap.results.display import Displayed
from raycap.runs.records import encode_json, read_if_any
from raycap.storage.base import Store

EVALUATION = "evaluation.json"
SCORES = "scores/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One score of one system, with its confidence interval over images."""

    name: str
    """`bleu_1`..`bleu_4`, `rouge_l`, `cider_d`, `meteor`, `spice`, `clip_score`,
    `ref_clip_score`."""
    value: float | None
    """None if it was skipped."""
    low: float | None = None
    high: float | None = None
    skipped: str | None = None
    """Why there is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Distribution of caption lengths, in tokens."""

    mean: float
    median: float
    histogram: dict[int, int]
    """Number of captions by their length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthGap:
    """Difference of a system's caption lengths from those of the references."""

    difference: float
    """Mean of the captions minus mean of the references: negative means too short."""
    low: float | None
    high: float | None
    wasserstein: float
    """Earth mover's distance between the two distributions, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Variety of a system's captions."""

    distinct_1: float
    """Distinct tokens divided by all tokens (Li et al. 2016, arXiv:1510.03055)."""
    distinct_2: float
    """Distinct pairs of tokens divided by all pairs."""
    repetition: float
    """Share of captions in which a sequence of up to four tokens is repeated immediately."""
    vocabulary_size: int
    num_different_captions: int
    copied_from_training: float | None
    """Share of captions that occur word for word in the training split; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system: a set of captions and their scores."""

    name: str
    source: str
    """The address of its captions."""
    format: str
    """`raycap`, `coco`, `jsonl`, `csv` or `parquet`."""
    scores: str
    """Key of its per-image scores, relative to the evaluation; "" if none were written."""
    model: dict[str, Any] = field(default_factory=dict)
    """The model that made the captions, if known."""
    edits: str = ""
    """`apply` or `only` if the captions are as people corrected them; "" for those of the model."""
    matched_by: str
    """How ids were matched with the references: `image_id`, `source_id`, `file name` or `stem`."""
    num_images: int
    """Images that were scored."""
    num_missing: int
    """Images with references but without a row."""
    missing: list[str] = field(default_factory=list)
    """The first few of their ids."""
    num_extra: int
    """Captions of images without references."""
    extra: list[str] = field(default_factory=list)
    """The first few of their ids."""
    num_failed: int
    failed: dict[str, int] = field(default_factory=dict)
    """Failed rows by error code."""
    mean_logprob: float | None
    metrics: list[Metric]
    lengths: Lengths
    length_gap: LengthGap
    diversity: Diversity


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of two systems on the same images: a paired bootstrap of their difference.

    Source: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation".
    """

    metric: str
    """A metric's name, or `length`."""
    first: str
    second: str
    difference: float
    """Score of the first minus that of the second."""
    low: float
    high: float
    p_value: float
    """Two-sided: twice the share of resamples that reverse the sign; 1 for no difference."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Evaluation(Displayed):
    """Result of evaluating systems against one set of references. In `evaluation.json`."""

    references: str
    """Address of the references."""
    splits: list[str]
    """The splits that were used; empty means all."""
    references_dropped: dict[str, int] = field(default_factory=dict)
    """Number of captions, and of images without any, that could not be used, by reason."""
    num_images: int
    num_references: int
    reference_lengths: Lengths
    tokenizer: str
    """All lengths in tokens and all n-gram metrics depend on it."""
    missing_policy: str
    """`error`, `worst` or `drop`."""
    confidence: float
    num_resamples: int
    seed: int
    systems: list[System]
    comparisons: list[Comparison]
    wall_s: float
    warnings: list[str] = field(default_factory=list)
    """Why scores may not mean what they seem to. Empty in evaluations before raycap 0.2."""
    versions: dict[str, str] = field(default_factory=dict)
    created_at: str = ""


_FORM = TypeAdapter(Evaluation)


def write_evaluation(store: Store, evaluation: Evaluation) -> None:
    """Write `evaluation.json`, the last file of an evaluation."""
    store.write(EVALUATION, encode_json(asdict(evaluation)))


def read_evaluation(store: Store) -> Evaluation:
    """Read `evaluation.json`.

    Raises:
        DatasetError: there is none, or it is damaged.
        StorageError: the store refuses.
    """
    found = read_if_any(_FORM, store, EVALUATION, "evaluate again")
    if found is None:
        raise DatasetError(
            f"{store.uri}: is not an evaluation (it has no {EVALUATION}); give the folder or "
            "bucket prefix that `raycap evaluate --output` wrote to",
            uri=store.uri,
        )
    return found
