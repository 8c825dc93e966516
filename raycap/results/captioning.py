"""Results of captioning: a run's summary and heartbeat, verification, export, dry run.

run.json                       created once: the fingerprint; a different run is refused
lock.json                      held while a run writes
plan.json                      the PlanRecord below: how many parts and images were planned
progress.json                  the Heartbeat below, rewritten every few seconds
manifest/part-000000.parquet   the images of a part; and so on for every part
captions/part-000000.parquet   its captions or errors, row by row
summary.json                   the Summary below; written last: with it, the run is complete
edits/000000001.jsonl          corrections by people, one file per saving (`edits/log.py`)
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from raycap.errors import DatasetError, ObjectNotFound
from raycap.progress import Spent
from raycap.results.display import Displayed
from raycap.runs.records import (
    RUN,
    encode_json,
    fingerprint_digest,
    read_as,
    read_fingerprint,
    read_if_any,
    read_json,
)
from raycap.storage.address import check_exists
from raycap.storage.base import Store

SUMMARY = "summary.json"
PROGRESS = "progress.json"
MOVED_TO = "moved_to"
"""Key of `run.json`: the address that the source has moved to since the run began."""
TEXT = "text"
"""Key of `run.json`: the rules for the text, if others were applied since the run began."""
PLAN = "plan.json"
_MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Forecast(Displayed):
    """Result of a dry run, which writes nothing and loads no model."""

    num_images: int
    num_bytes: int
    """Sum of the sizes that the listing reports."""
    num_parts: int
    num_parts_done: int
    num_images_done: int
    num_pending: int
    num_copies: int = 0
    """Images that only await the captions of others that are the same bytes."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files of the source that are not images, by suffix; `duplicate` counts entries of a list
    whose image is in it already."""
    repeated: list[str] = field(default_factory=list)
    """Ids of the first few images that a list has more than once."""
    is_source_empty: bool = False
    """Whether the source gave no image when it was listed; no image was taken for gone then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What was planned, so that a part or row that is lost later is missed. In `plan.json`.

    Written once the parts exist, and again when images were added. Manifest parts that it does not
    count do not belong to the run: a planning was interrupted, or its writer was taken over.
    """

    run: str
    """Digest of the run's fingerprint."""
    num_parts: Annotated[int, Field(ge=0)]
    """One more than the highest number of a part."""
    num_images: int
    num_gone: int = 0
    """Images that were missing from the source when it was last listed; their rows are kept."""
    absent: list[int] = field(default_factory=list)
    """Numbers below `num_parts` without a part, which an interrupted planning left out."""
    planned_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Summary(Displayed):
    """Result of a run. In `summary.json`, which exists only if every image has its row."""

    output: str
    source: str
    num_images: int
    num_ok: int
    num_failed: int
    failed: dict[str, int] = field(default_factory=dict)
    """Failed images by error code."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files of the source that are not images, by suffix; `duplicate` counts entries of a list
    whose image is in it already."""
    repeated: list[str] = field(default_factory=list)
    """Ids of the first few images that a list has more than once."""
    num_gone: int = 0
    """Images that are no longer in the source; their rows are kept."""
    is_source_empty: bool = False
    """Whether the source gave no image when it was listed; no image was taken for gone then."""
    mean_words: float
    """Words per caption; with named prompts, per answer to the first."""
    prompts: list[str] = field(default_factory=list)
    """Names of the prompts, in order; empty for one caption per image."""
    flagged: dict[str, int] = field(default_factory=dict)
    """Doubtful answers that were kept, by code."""
    same_caption: dict[str, Any] = field(default_factory=dict)
    """Only if the model seemed to ignore its images: the `caption` that `num_images` of `num_of`
    different images had."""
    num_tokens: int = 0
    """Generated tokens, as far as known."""
    num_prompt_tokens: int = 0
    """Tokens that the model read, as far as known."""
    spent: Spent | None = None
    """At endpoints, in all invocations; unlike the tokens above, with answers that were paid and
    lost or replaced. None if the run asks none."""
    num_copies: int = 0
    """Images with the captions of others that are the same bytes (`engine.deduplicate`)."""
    num_bytes: int
    """Bytes read for all images."""
    num_captioned: int
    """Images that this invocation processed; the others were already done."""
    wall_s: float
    """Seconds of this invocation, including the start of Ray."""
    images_per_s: float
    """Images per second of this invocation, excluding the start of Ray."""
    text: str = ""
    """Digest of the rules for the text that all captions follow; empty without rules."""
    model: dict[str, Any] = field(default_factory=dict)
    cascade: dict[str, Any] = field(default_factory=dict)
    """Only with a second model: that `model`, `below`, `num_images` that it received, and
    `num_failed` of them, which kept the first model's caption."""
    versions: dict[str, str] = field(default_factory=dict)
    finished_at: str = ""

    @property
    def failed_share(self) -> float:
        """Failed images as a share of all images, 0 to 1."""
        return self.num_failed / self.num_images if self.num_images else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat of a run. In `progress.json`."""

    num_done: int
    num_total: int
    num_failed: int
    images_per_s: float
    host: str
    pid: int
    started_at: str
    """When this invocation began to caption, in UTC."""
    beat_at: str
    """When this was written, in UTC, by the clock of the machine that wrote it."""
    is_stopped: bool = False
    """Whether the run ended: complete, stopped or failed."""
    flagged: dict[str, int] = field(default_factory=dict)
    """Doubtful answers that were kept and committed, by the code of their flag."""
    spent: Spent | None = None
    """At endpoints, by this run in all its invocations; None if it asks none."""
    num_copies: int = 0
    """Images with the captions of others that are the same bytes, or that await them."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OutputStatus(Displayed):
    """State of an output."""

    state: str
    """`complete`, `running`, `silent` (no heartbeat for a while), `stopped`, `unfinished` (every
    image has its row, but the run ended before it wrote the summary), or `starting`."""
    beat: Beat | None
    """The last heartbeat; None before the first."""
    age_s: float | None
    """Seconds since then, by this machine's clock."""
    num_gone: int = 0
    """Images that are no longer in the source; their rows are kept."""
    skipped: dict[str, int] = field(default_factory=dict)
    """As the summary has it; empty without one."""
    edits: dict[str, int] = field(default_factory=dict)
    """Captions that people have reviewed, by what they made of them: `edited`, `approved`,
    `rejected`."""


@dataclass(kw_only=True, repr=False)
class Verification(Displayed):
    """Result of verifying an output."""

    num_images: int = 0
    """Rows of the manifest."""
    num_ok: int = 0
    num_failed: int = 0
    num_pending: int = 0
    """Images without a current caption: their part has no captions, the image has changed since,
    the second model of a cascade has not processed it yet, or it awaits the caption of another
    image that is the same bytes."""
    num_gone: int = 0
    """Images that were missing from the source when it was last listed; their rows count above."""
    has_summary: bool = True
    """Whether the run came to its end, and wrote `summary.json`."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failed images by error code."""
    skipped: dict[str, int] = field(default_factory=dict)
    """As the summary has it; empty without one."""
    problems: list[str] = field(default_factory=list)
    """The first hundred problems, one line each."""
    num_problems: int = 0
    num_edits: int = 0
    """Edits by people, those that are undone included."""
    notes: list[str] = field(default_factory=list)
    """What is remarkable, but no problem, one line each."""

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem; images may still be pending."""
        return not self.num_problems

    @property
    def is_complete(self) -> bool:
        """Whether there is no problem, nothing is pending, and the run came to its end."""
        return self.is_sound and not self.num_pending and self.has_summary

    def report(self, problem: str) -> None:
        """Count a problem, and keep it if there are not too many."""
        self.num_problems += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Result of pushing a dataset to the Hugging Face Hub."""

    repository: str
    """Its name, `user/name`."""
    url: str
    """Its page."""
    num_files: int
    """Files that were sent; those that the repository had already are not."""
    num_bytes: int
    """Size of those files."""
    notes: tuple[str, ...] = ()
    """What a reader of the repository should know, one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCounts:
    """Result of an export."""

    num_exported: int
    """Images written. Formats that include failed images count those too."""
    num_failed_skipped: int = 0
    """Images without a caption, omitted from formats that have no place for them."""
    num_unreadable: int = 0
    """Captioned images that can no longer be read (hf, webdataset)."""
    unreadable: tuple[str, ...] = ()
    """Messages about the first few of those."""
    num_files: int = 1
    """Files of the export."""
    num_same_stem: int = 0
    """Captioned images whose name differs from another's only in the suffix (sidecar)."""
    num_kept: int = 0
    """Files with other content that were kept as they were (`existing="skip"`)."""
    notes: tuple[str, ...] = ()
    """What a reader of the files should know, one sentence each."""
    num_gone_skipped: int = 0
    """Images omitted because they are no longer in the source (`gone="drop"`)."""
    num_left_out: int = 0
    """Images omitted because they do not meet the condition (`where`)."""
    pushed: Pushed | None = None
    """What was sent to the Hugging Face Hub (hf)."""


_SUMMARY_FORM = TypeAdapter(Summary)
_PLAN_FORM = TypeAdapter(PlanRecord)
_REMEDY = "delete it and run the same `raycap caption` command again"

_OTHER_OUTPUTS = {
    "dataset.json": "prepare",
    "training.json": "train",
    "tune.json": "tune",
    "study.json": "study",
    "calibration.json": "calibrate",
    "evaluation.json": "evaluate",
}


def read_run(store: Store) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        ConfigError: there is nothing at the path.
        DatasetError: there is none, or it is damaged.
    """
    try:
        run = read_json(store, RUN)
    except ObjectNotFound:
        check_exists(store.uri)
        raise DatasetError(
            f"{store.uri}: is not an output of raycap (it has no {RUN}); give the folder or "
            "bucket prefix that `raycap caption` wrote to",
            uri=store.uri,
        ) from None
    read_fingerprint(store, run)
    return run


def read_caption_run(store: Store) -> dict[str, Any]:
    """Read `run.json` of a captioning run.

    Raises:
        DatasetError: there is none, it is damaged, or the output is of another command.
    """
    for name, command in _OTHER_OUTPUTS.items():
        if store.exists(name):
            raise _other_output(store, command)
    run = read_run(store)
    begun = _other_command(run.get("fingerprint", {}))
    if begun is not None:
        raise _other_output(store, begun)
    return run


def _other_output(store: Store, command: str) -> DatasetError:
    return DatasetError(
        f"{store.uri}: is an output of `raycap {command}`, not of `raycap caption`", uri=store.uri
    )


def _other_command(fingerprint: dict[str, Any]) -> str | None:
    """Return the command of a fingerprint; None if it is that of captioning."""
    if "command" in fingerprint:  # what began, but has no result yet
        return str(fingerprint["command"])
    return "train" if "kind" in fingerprint and "train" in fingerprint else None


def run_setting(run: dict[str, Any], *names: str) -> Any:
    """Return a value within `run.json`; None where it or a section on the way is missing."""
    found: Any = run
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def source_dataset(run: dict[str, Any]) -> str | None:
    """Return the address of the caption dataset that a run captions; None for other sources.

    Args:
        run: content of `run.json`.
    """
    fingerprint = run_setting(run, "fingerprint") or {}
    source = fingerprint.get("source") if "split" in fingerprint else None
    source = run.get(MOVED_TO, source) if source is not None else None
    return source if isinstance(source, str) else None


def text_digest(rules: dict[str, Any]) -> str:
    """Return a digest of rules for the text, by which parts name them; empty without rules."""
    return fingerprint_digest(rules) if rules else ""


def present_text(run: dict[str, Any]) -> dict[str, Any]:
    """Return the rules for the text that an output follows, or is being rewritten by.

    Args:
        run: content of `run.json`.
    """
    found = run[TEXT] if TEXT in run else run_setting(run, "fingerprint", TEXT)
    return found if isinstance(found, dict) else {}


def is_complete(store: Store) -> bool:
    """Return whether an output has the summary of its plan, so that every image has its row.

    While other rules for the text are applied, its captions are not those of the summary.
    """
    try:
        summary = read_summary(store)
    except (ObjectNotFound, DatasetError):  # a damaged one is written again
        return False
    try:
        text = present_text(read_json(store, RUN))
    except ObjectNotFound:
        text = {}
    if summary.text != text_digest(text):
        return False
    plan = read_plan_record(store)
    return plan is None or plan.num_images == summary.num_images


def write_summary(store: Store, summary: Summary) -> None:
    """Write `summary.json`, the last file of a complete run."""
    store.write(SUMMARY, encode_json(asdict(summary)))


def read_summary(store: Store) -> Summary:
    """Read `summary.json`.

    Raises:
        ObjectNotFound: there is none.
        DatasetError: it is damaged.
    """
    return read_as(_SUMMARY_FORM, store, SUMMARY, _REMEDY)


def read_skipped(store: Store) -> dict[str, int]:
    """Return the files that a run skipped, as its summary has them; none without a summary."""
    try:
        return read_summary(store).skipped
    except (ObjectNotFound, DatasetError):  # a damaged one is written again
        return {}


def write_plan_record(store: Store, record: PlanRecord) -> None:
    """Write `plan.json`, which makes the parts that it counts valid."""
    store.write(PLAN, encode_json(asdict(record)))


def read_plan_record(store: Store) -> PlanRecord | None:
    """Read `plan.json`; None in an output of an older version, and before the first planning.

    Raises:
        DatasetError: it is damaged.
    """
    return read_if_any(_PLAN_FORM, store, PLAN, "restore the file, or start in a new output")
