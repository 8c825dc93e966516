"""The card of a dataset for the Hugging Face Hub, and the record of the run beside it.

The card ends with a comment that names the run and a digest of the text above it, so that a card
that somebody has edited is recognised, and not overwritten.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCardData

from raycap.captioning.output import FinishedOutput
from raycap.captioning.parts import read_captions_footer
from raycap.captioning.prompts import prompts_of
from raycap.config import CaptionConfig, HubImages
from raycap.config.loading import validate_config
from raycap.errors import ConfigError, ObjectNotFound
from raycap.exporting.hf_columns import MEANINGS
from raycap.exporting.jobs import ExportJob
from raycap.models.sources import ENDPOINT
from raycap.results.captioning import SUMMARY, read_caption_run, run_setting
from raycap.runs.records import RUN, encode_json, read_json
from raycap.schema import CAPTION
from raycap.storage.address import Address
from raycap.storage.base import Store

CARD = "README.md"
RECORDS = "raycap/"
SETTINGS = "config.json"
_DATA_FILES = "data/part-*.parquet"
_PRIVATE = ("storage", "endpoint")  # sections with the addresses of services
_MARK = re.compile(r"\n<!-- raycap run=(?P<run>[0-9a-f]+) card=(?P<card>[0-9a-f]+) -->\s*\Z")
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_BAR_CHARS = 40
_MAX_BARS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a dataset contains."""

    num_rows: int
    failed: Counter[str]
    """Images without a caption, by error code."""
    num_unreadable: int
    """Captioned images that could not be read, or had changed."""
    num_words: dict[str, Counter[int]]
    """Rows by the number of words of their answer, by prompt; "" in a run without named ones."""


class CardState(Enum):
    """Whose card there is."""

    NONE = "none"
    WRITTEN = "written"
    """By raycap, and unchanged since."""
    EDITED = "edited"
    """By raycap, and changed since."""
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the text of a card shows."""

    state: CardState
    run: str | None = None
    """Digest of the fingerprint of the run."""


def read_card(text: str) -> Card:
    """Recognise a card by its last line."""
    # The Hub and Git may change the ends of lines.
    text = text.replace("\r\n", "\n")
    match = _MARK.search(text)
    if match is None:
        return Card(state=CardState.FOREIGN)
    is_same = _digest(text[: match.start()]) == match["card"]
    state = CardState.WRITTEN if is_same else CardState.EDITED
    return Card(state=state, run=match["run"])


def card_state(store: Store) -> CardState:
    """Return whose card a folder has."""
    try:
        return read_card(store.read(CARD).decode(errors="replace")).state
    except ObjectNotFound:
        return CardState.NONE


def _digest(text: str) -> str:
    return blake2b(text.strip().encode(), digest_size=16).hexdigest()


def records(output: Store) -> dict[str, bytes]:
    """Return the record of a run by key, without paths of the machine and addresses of services.

    Credentials are in no record of raycap.
    """
    run = _public(read_json(output, RUN))
    found = {RECORDS + RUN: encode_json(run)}
    if isinstance(run.get("config"), dict):
        found[RECORDS + SETTINGS] = encode_json(run["config"])
    with suppress(ObjectNotFound):  # the run ended before it wrote one; all rows are there
        found[RECORDS + SUMMARY] = encode_json(_public(read_json(output, SUMMARY)))
    return found


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public(one) for key, one in value.items() if key not in _PRIVATE}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return _public_text(value) if isinstance(value, str) else value


def _public_text(text: str) -> str:
    """Return the last name of a path of this machine, and any other text as it is."""
    address = Address.parse(text)
    is_path = address.is_local and address.is_absolute and "\n" not in text
    path = PurePath(address.path)
    return path.name if is_path and len(path.parts) > 2 else text


def write_card(store: Store, job: ExportJob, schema: pa.Schema, counts: Counts, run: str) -> None:
    """Write the card of a dataset.

    Args:
        store: The dataset.
        job: What was exported.
        schema: Of its files.
        counts: What it contains.
        run: Digest of the fingerprint of the run.
    """
    text = "\n".join(_card(job, schema, counts)).strip()
    mark = f"\n\n<!-- raycap run={run} card={_digest(text)} -->\n"
    store.write(CARD, (text + mark).encode())


def _card(job: ExportJob, schema: pa.Schema, counts: Counts) -> Iterator[str]:
    run = _public(read_caption_run(job.rows.store))
    yield from ("---", _header(job, counts).rstrip(), "---", "")
    yield from ("# Captions by raycap", "")
    by_people = ", and reviewed by people" if job.rows.output.is_edited else ", not by people"
    yield f"{counts.num_rows:,} images with captions written by a model{by_people}."
    yield ""
    yield from _use(job)
    yield from _columns(job, schema, run)
    yield from _model(run)
    yield from _counts(counts)
    yield from _lengths(counts.num_words)
    yield from _reproduction(run)


def _header(job: ExportJob, counts: Counts) -> str:
    files = [{"split": "train", "path": _DATA_FILES}]
    data = DatasetCardData(
        license=job.hub.license,
        annotations_creators="machine-generated",
        task_categories=["image-to-text"],
        size_categories=[size_category(counts.num_rows)],
        tags=["image-captioning", "synthetic", "raycap"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    return str(data.to_yaml())


def size_category(num_rows: int) -> str:
    """Return the Hub's word for a number of rows."""
    limit, lower = 1_000, None
    for upper in _SIZES:
        if num_rows < limit:
            return f"n<{upper}" if lower is None else f"{lower}<n<{upper}"
        limit, lower = limit * 10, upper
    return f"n>{lower}"


def _use(job: ExportJob) -> Iterator[str]:
    yield from ("```python", "from datasets import load_dataset", "")
    name = job.hub.push or "FOLDER OR USER/NAME"
    yield from (f'dataset = load_dataset("{name}", split="train")', "```", "")
    if job.hub.images is HubImages.ADDRESSES:
        yield "The images are not in this dataset: they are read from their addresses."
        yield ""


def _columns(job: ExportJob, schema: pa.Schema, run: Mapping[str, Any]) -> Iterator[str]:
    texts = _texts(job.rows.output, run)
    origins = {column.name: ".".join(column.path) for column in job.rows.chosen or ()}
    yield from ("## Columns", "", "| column | meaning |", "|---|---|")
    for name in schema.names:
        origin = origins.get(name, name)
        if origin in job.hub.prompts(job.rows):
            asked = _inline(texts[origin]) if origin in texts else "its text is not recorded"
            meaning = f"answer to the prompt: {asked}"
        elif "." in origin:
            meaning = f"`{origin}`"
        else:
            meaning = MEANINGS.get(origin, "given with the images")
        yield f"| `{name}` | {meaning} |"
    yield ""


def _texts(output: FinishedOutput, run: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of named prompts; not of those that were changed or added later."""
    if not output.prompts or not isinstance(run.get("config"), dict):
        return {}
    try:
        config = validate_config(CaptionConfig, run["config"])
    except ConfigError:  # of another version
        return {}
    asked = read_captions_footer(output.store, output.parts[0]).prompts
    return {p.name: p.text for p in prompts_of(config) if asked.get(p.name) == p.digest}


def _inline(text: str) -> str:
    """Return any text as one cell of a table."""
    line = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else "(empty)"


def _model(run: Mapping[str, Any]) -> Iterator[str]:
    models = {"Model": run_setting(dict(run), "fingerprint", "model")}
    models["Second model"] = run_setting(dict(run), "fingerprint", "cascade", "model")
    rows = {
        f"{title}: {name}": value
        for title, model in models.items()
        if isinstance(model, dict)
        for name in ("name", "revision", "kind", "digest", "adapter", "precision")
        if (value := model.get(name)) is not None
    }
    asked = run_setting(dict(run), "fingerprint", "generation")
    settings = {
        name: value
        for name, value in (asked if isinstance(asked, dict) else {}).items()
        if value not in (None, "", [], {})
    }
    if not rows and not settings:
        return
    yield from ("## Model and settings", "", "| | |", "|---|---|")
    for name, value in [*rows.items(), *settings.items()]:
        yield f"| {name} | {_inline(value if isinstance(value, str) else json.dumps(value))} |"
    yield ""


def _counts(counts: Counts) -> Iterator[str]:
    yield from ("## Counts", "", "| images | number |", "|---|---:|")
    yield f"| in this dataset | {counts.num_rows:,} |"
    for code, number in sorted(counts.failed.items()):
        yield f"| without a caption: `{code}` | {number:,} |"
    if counts.num_unreadable:
        yield f"| no longer readable, or changed | {counts.num_unreadable:,} |"
    yield ""


def _lengths(num_words: Mapping[str, Counter[int]]) -> Iterator[str]:
    for name, counted in num_words.items():
        if not counted:
            continue
        yield from (f"## Words per {f'answer to `{name}`' if name else CAPTION}", "", "```text")
        yield from bars(counted)
        yield from ("```", "")


def bars(counted: Counter[int]) -> Iterator[str]:
    """Draw a histogram as lines of text, in at most 12 classes of equal width."""
    low, high = min(counted), max(counted)
    width = -(-(high - low + 1) // _MAX_BARS)
    classes: Counter[int] = Counter()
    for value, number in counted.items():
        classes[(value - low) // width] += number
    most = max(classes.values())
    for index in range((high - low) // width + 1):
        first = low + index * width
        label = f"{first}" if width == 1 else f"{first}-{first + width - 1}"
        bar = "#" * -(-classes[index] * _BAR_CHARS // most)
        yield f"{label:>9} {bar:<{_BAR_CHARS}} {classes[index]:,}"


def _reproduction(run: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Reproduce", "")
    yield f"`{RECORDS}{RUN}` records what decides the captions."
    if isinstance(run.get("config"), dict):
        yield "With the same images and the same model:"
        is_asked = run_setting(dict(run), "config", "model", "backend") == ENDPOINT
        servers = " --set endpoint.urls=SERVER" if is_asked else ""
        yield from ("", "```bash")
        yield f"raycap caption IMAGES/ captions/ --config {RECORDS}{SETTINGS}{servers}"
        yield "```"
    yield from ("", "## Cite", "", "```bibtex", "@software{raycap,")
    yield "  title = {raycap: distributed image captioning on Ray},"
    yield f"  version = {{{version('raycap')}}}"
    yield from ("}", "```", "")
    yield "Cite the model and the source of the images as their authors ask."
