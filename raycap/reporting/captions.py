"""Section of a caption output: counts, lengths, failures, throughput, images."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from raycap.captioning.output import SOURCE_URI, FinishedOutput, open_finished
from raycap.captioning.parts import read_captions_footer
from raycap.config import ReportConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.progress import Spent
from raycap.reporting.blocks import (
    Fact,
    Failure,
    Section,
    Tile,
    failure_table,
    last_name,
    run_settings,
)
from raycap.reporting.charts import Plot
from raycap.reporting.gallery import (
    BEST,
    DRAW,
    FAILED,
    RANDOM,
    WORST,
    Answer,
    Draws,
    Example,
    First,
    Gallery,
    Order,
    Tab,
    fill_up,
    random_first,
    tabs_of,
)
from raycap.reporting.numbers import byte_count, decimal, integer, moment, percent
from raycap.reporting.pictures import Picture, Wanted, fetch_thumbnails, reference_pictures
from raycap.reporting.plots import Commit, Histogram, length_plot, throughput_plot
from raycap.results.captioning import SUMMARY, Summary, read_run, read_summary
from raycap.schema import (
    ALTERNATIVES,
    CAPTION,
    EDITED,
    ERROR_CODE,
    ERROR_MESSAGE,
    ETAG,
    FLAG,
    HEIGHT_PX,
    IMAGE_ID,
    LOGPROB,
    NUM_WORDS,
    PART,
    REVIEW,
    STALE,
    STATUS,
    STATUS_OK,
    WIDTH_PX,
)
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map
from raycap.text import amount, brief

ORDERS = (
    Order(key=LOGPROB, label="Log-probability"),
    Order(key=NUM_WORDS, label="Length"),
)
"""Values by which captioned images can be sorted."""
OTHERS_LABEL = "Further captions"

_TABS = (
    Tab(key=RANDOM, label="Random"),
    Tab(key=BEST, label="Most certain", order=LOGPROB),
    Tab(key=WORST, label="Least certain", order=LOGPROB, descending=False),
    Tab(key=FAILED, label="Failed"),
)
_COLUMNS = [IMAGE_ID, STATUS, ERROR_CODE, ERROR_MESSAGE, NUM_WORDS, LOGPROB, FLAG, CAPTION]
_KEPT = [IMAGE_ID, LOGPROB, PART, DRAW]
_MESSAGES_SHOWN = 3
_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsSection(Section):
    """Section of a caption output."""

    template: ClassVar[str] = "captions.html.jinja"
    kind: ClassVar[str] = "Captions"

    address: str
    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    lengths: Plot
    throughput: Plot | None
    failures: tuple[Failure, ...]
    flags: tuple[Failure, ...]
    """Captions that were kept, by the code of their flag."""
    settings: tuple[Fact, ...]


def captions_section(store: Store, anchor: str, config: ReportConfig) -> CaptionsSection:
    """Read a finished caption output, and build its section.

    Raises:
        DatasetError: it is unfinished or damaged.
        StorageError: the store refuses.
    """
    output = open_finished(store.uri, config.storage, prompt=config.prompt, edits=config.edits)
    summary, run = _read_summary(store), read_run(store)
    overview = look_over(output, config.num_examples, config.seed)
    model = str(summary.model.get("name", "an unknown model"))
    mean = overview.num_words / max(1, overview.num_ok)
    return CaptionsSection(
        anchor=anchor,
        title=f"{last_name(summary.source)}, captioned by {last_name(model)}",
        address=store.uri,
        summary=tuple(
            filter(
                None,
                [
                    f"images of {summary.source}",
                    model,
                    f"prompt {output.prompt}" if output.prompt else "",
                    moment(summary.finished_at),
                ],
            )
        ),
        tiles=_tiles(summary, overview, mean),
        lengths=length_plot(
            f"{anchor}-length-plot", "words", Histogram(counts=overview.lengths, mean=mean)
        ),
        throughput=throughput_plot(f"{anchor}-throughput-plot", _commits(output)),
        failures=failure_table(overview.failed, overview.messages.shown()),
        flags=failure_table(overview.flagged, overview.flagged_captions.shown()),
        settings=_settings(summary, run),
        gallery=_gallery(output, overview.chosen, config),
    )


def _read_summary(store: Store) -> Summary:
    try:
        return read_summary(store)
    except ObjectNotFound:
        raise DatasetError(
            f"{store.uri}: has no {SUMMARY}, because its run was stopped just before its end; the "
            "same `raycap caption` command finishes it",
            uri=store.uri,
        ) from None


def _tiles(summary: Summary, overview: "Overview", mean_words: float) -> tuple[Tile, ...]:
    num_failed = overview.num_images - overview.num_ok
    tiles = [
        Tile(label="images", value=integer(overview.num_images)),
        Tile(label="captioned", value=integer(overview.num_ok)),
        Tile(
            label="failed",
            value=integer(num_failed),
            note=percent(num_failed / max(1, overview.num_images)),
        ),
        Tile(label="words per caption", value=decimal(mean_words, 1)),
    ]
    if overview.mean_logprob is not None:
        tiles.append(Tile(label="log-probability", value=decimal(overview.mean_logprob, 2)))
    tiles += [
        Tile(
            label="stale reviews" if review == STALE else f"{review} by people",
            value=integer(count),
        )
        for review, count in sorted(overview.reviews.items())
    ]
    if summary.num_copies:
        share = percent(summary.num_copies / max(1, overview.num_images))
        tiles.append(
            Tile(label="same bytes as another", value=integer(summary.num_copies), note=share)
        )
    tiles.append(Tile(label="read", value=byte_count(summary.num_bytes)))
    tiles += _spent_tiles(summary.spent)
    if summary.num_captioned:
        note = f"{integer(summary.num_captioned)} in the last run"
        tiles.append(Tile(label="images/s", value=decimal(summary.images_per_s, 1), note=note))
    return tuple(tiles)


def _spent_tiles(spent: Spent | None) -> list[Tile]:
    if spent is None:
        return []
    note = f"read, and {integer(spent.num_tokens)} written"
    tiles = [Tile(label="tokens", value=integer(spent.num_prompt_tokens), note=note)]
    cost = [] if spent.cost is None else [Tile(label="cost", value=amount(spent.cost))]
    return [*tiles, *cost]


def _commits(output: FinishedOutput) -> list[Commit]:
    """Read when each part was written, and how many rows it has."""
    footers = ordered_map(
        partial(read_captions_footer, output.store), output.parts, output.config.list_threads
    )
    return [(footer.committed_at, footer.num_rows) for footer in footers]


def _settings(summary: Summary, run: dict[str, Any]) -> tuple[Fact, ...]:
    num_repeated = summary.skipped.get("duplicate", 0)
    skipped = ", ".join(
        f"{integer(n)} {suffix}" for suffix, n in summary.skipped.items() if suffix != "duplicate"
    )
    return (
        ("source", summary.source),
        ("output", summary.output),
        ("started", moment(str(run.get("created_at", "")))),
        ("finished", moment(summary.finished_at)),
        ("duration of the last run", f"{decimal(summary.wall_s, 1)} s"),
        *([("skipped: not images", skipped)] if skipped else []),
        *([("listed again", _repeated(summary, num_repeated))] if num_repeated else []),
        *run_settings(run.get("config", {}), summary.model, summary.versions),
    )


def _repeated(summary: Summary, count: int) -> str:
    return ": ".join([integer(count), *([", ".join(summary.repeated)] if summary.repeated else [])])


class Messages:
    """The first few images and texts for each code."""

    def __init__(self) -> None:
        self._found: dict[str, list[Fact]] = {}

    def add(self, rows: pa.Table, code: str, text: str) -> None:
        """Add rows.

        Args:
            rows: Of images.
            code: Name of the column with the code.
            text: Name of the column with the text, such as the error message.
        """
        for row in rows.select([IMAGE_ID, code, text]).to_pylist():
            found = self._found.setdefault(row[code] or "no code", [])
            if len(found) < _MESSAGES_SHOWN:
                found.append((row[IMAGE_ID], brief(row[text] or "no text", _MESSAGE_CHARACTERS)))

    def shown(self) -> dict[str, tuple[Fact, ...]]:
        """Return them by code."""
        return {code: tuple(facts) for code, facts in self._found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """The images of a gallery."""

    ids: list[str]
    """All of them, random ones first."""
    tabs: dict[str, frozenset[str]]
    """The ids of each tab."""
    parts: dict[str, int]
    """The number of the part that each image is in."""


@dataclass(kw_only=True)
class Overview:
    """Totals of the rows of an output, and the rows to show."""

    num_images: int = 0
    num_ok: int = 0
    num_words: int = 0
    sum_logprob: float = 0.0
    num_logprob: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    """Number of captions by their number of words."""
    failed: Counter[str] = field(default_factory=Counter)
    """Number of failed rows by error code."""
    messages: Messages = field(default_factory=Messages)
    reviews: Counter[str] = field(default_factory=Counter)
    """Number of captions by what people have made of them, stale ones as `stale`."""
    flagged: Counter[str] = field(default_factory=Counter)
    """Number of captions that were kept, by the code of their flag."""
    flagged_captions: Messages = field(default_factory=Messages)
    chosen: Picks = field(default_factory=lambda: Picks(ids=[], tabs={}, parts={}))

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability; None if no caption has one."""
        return self.sum_logprob / self.num_logprob if self.num_logprob else None

    def add(self, table: pa.Table) -> None:
        """Add rows to the totals."""
        is_ok = pc.equal(table[STATUS], STATUS_OK)
        ok, failed = table.filter(is_ok), table.filter(pc.invert(is_ok))
        logprobs = ok[LOGPROB].filter(pc.is_finite(ok[LOGPROB]))
        self.num_images += len(table)
        self.num_ok += len(ok)
        self.num_words += pc.sum(ok[NUM_WORDS]).as_py() or 0
        self.sum_logprob += pc.sum(logprobs).as_py() or 0.0
        self.num_logprob += len(logprobs)
        for count in pc.value_counts(ok[NUM_WORDS].combine_chunks()).to_pylist():
            self.lengths[count["values"]] += count["counts"]
        self.failed.update(code or "no code" for code in failed[ERROR_CODE].to_pylist())
        self.messages.add(failed, ERROR_CODE, ERROR_MESSAGE)
        flagged = ok.filter(pc.is_valid(ok[FLAG]))
        self.flagged.update(flagged[FLAG].to_pylist())
        self.flagged_captions.add(flagged, FLAG, CAPTION)
        if REVIEW in table.column_names:
            self.reviews.update(table[REVIEW].drop_null().to_pylist())
            stale = table.filter(table[STALE])
            self.reviews.update([STALE] * len(stale))


def look_over(output: FinishedOutput, num_images: int, seed: int) -> Overview:
    """Read all rows once, in bounded memory.

    Args:
        output: of a finished run.
        num_images: number of images for the gallery: a quarter each of the most likely, the least
            likely and the failed, the others at random.
        seed: determines the random ones.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the store refuses.
    """
    quarter, overview, draws = num_images // 4, Overview(), Draws(seed)
    firsts = {
        RANDOM: First(num_images, DRAW, "ascending"),
        BEST: First(quarter, LOGPROB, "descending"),
        WORST: First(quarter, LOGPROB, "ascending"),
        FAILED: First(quarter, DRAW, "ascending"),
    }
    for number, page in zip(output.parts, output.pages([*_COLUMNS, *output.marks]), strict=True):
        overview.add(page)
        numbered = page.append_column(PART, pa.array([number] * len(page), pa.int64()))
        rows = draws.append_to(numbered)
        is_ok = pc.equal(rows[STATUS], STATUS_OK)
        firsts[RANDOM].add(rows.select(_KEPT))
        firsts[FAILED].add(rows.filter(pc.invert(is_ok)).select(_KEPT))
        for tab in (BEST, WORST):
            firsts[tab].add(rows.filter(is_ok).select(_KEPT))
    overview.chosen = _pick(firsts, num_images)
    return overview


def _pick(firsts: Mapping[str, First], num_images: int) -> Picks:
    tabs = {tab: frozenset(first.ids()) for tab, first in firsts.items() if tab != RANDOM}
    shown = frozenset().union(*tabs.values())
    random = fill_up(shown, firsts[RANDOM].ids(), num_images)
    parts: dict[str, int] = {}
    for first in firsts.values():
        rows = first.rows()
        parts.update(zip(rows[IMAGE_ID].to_pylist(), rows[PART].to_pylist(), strict=True))
    return Picks(
        ids=random_first(random, tabs.values()),
        tabs={**tabs, RANDOM: frozenset(random)},
        parts=parts,
    )


def _gallery(output: FinishedOutput, chosen: Picks, config: ReportConfig) -> Gallery:
    rows = {row[IMAGE_ID]: row for row in _rows(output, chosen)}
    pictures = _pictures(output, [rows[image_id] for image_id in chosen.ids], config)
    others = (name for name in output.prompts if name != output.prompt)
    shown = () if output.prompt is None else (output.prompt, *others)
    examples = [
        caption_example(
            rows[image_id],
            picture,
            tabs_of(image_id, chosen.tabs),
            shown[1:],
        )
        for image_id, picture in zip(chosen.ids, pictures, strict=True)
    ]
    return Gallery(
        systems=shown,
        systems_label="Prompt",
        tabs=_TABS,
        orders=ORDERS,
        others_label=OTHERS_LABEL,
        examples=tuple(examples),
    )


def _pictures(
    output: FinishedOutput, rows: Sequence[dict[str, Any]], config: ReportConfig
) -> list[Picture]:
    """Shrink the images: those of the source dataset, or those at their addresses."""
    if output.dataset is not None:
        wanted: list[Wanted] = [(row[IMAGE_ID], row[SOURCE_URI]) for row in rows]
        return reference_pictures(output.dataset, wanted, config)
    uris, versions = [row[SOURCE_URI] for row in rows], [row[ETAG] for row in rows]
    return fetch_thumbnails(uris, config, versions)


def _rows(output: FinishedOutput, chosen: Picks) -> Iterator[dict[str, Any]]:
    """Read the rows of the chosen images, each with SOURCE_URI."""
    wanted: dict[int, list[str]] = defaultdict(list)
    for image_id in chosen.ids:
        wanted[chosen.parts[image_id]].append(image_id)

    def read(number: int) -> pa.Table:
        table = output.part(number)
        return table.filter(pc.is_in(table[IMAGE_ID], pa.array(wanted[number], pa.string())))

    for table in ordered_map(read, sorted(wanted), output.read_ahead):
        yield from table.to_pylist()


def caption_example(
    row: dict[str, Any],
    picture: Picture,
    tabs: frozenset[str],
    prompts: Sequence[str] = (),
) -> Example:
    """Show one caption row.

    Args:
        row: with the columns of CAPTIONS.
        picture: the image.
        tabs: keys of the tabs that show it.
        prompts: further named prompts whose answers to show.
    """
    not_asked = Answer(caption=None, absence="not asked yet")
    others = [not_asked if row[name] is None else _answer(row[name]) for name in prompts]
    answers = [_answer(row), *others]
    return Example(
        image_id=row[IMAGE_ID],
        picture=picture,
        answers=tuple(answers),
        others=tuple(other[CAPTION] for other in row[ALTERNATIVES]),
        tabs=tabs,
    )


def _answer(row: dict[str, Any]) -> Answer:
    """Show an answer: of a row, or of the column of a prompt."""
    is_ok = row[ERROR_CODE] is None
    return Answer(
        caption=row[CAPTION] if is_ok else None,
        absence="" if is_ok else f"{row[ERROR_CODE]}: {row[ERROR_MESSAGE]}",
        marks=tuple(_marks(row)),
        values={key: float(row[key]) for key in (LOGPROB, NUM_WORDS) if row[key] is not None},
    )


def _marks(row: dict[str, Any]) -> Iterator[Fact]:
    if row[LOGPROB] is not None:
        yield "logprob", decimal(row[LOGPROB], 2)
    if row[NUM_WORDS] is not None:
        yield "words", str(row[NUM_WORDS])
    if row.get(EDITED):
        yield "text", "by a person"
    if row.get(REVIEW) is not None:
        yield REVIEW, row[REVIEW]
    if row.get(STALE):
        yield REVIEW, STALE
    if row.get(FLAG) is not None:
        yield "flag", row[FLAG]
    if row.get(WIDTH_PX) is not None:
        yield "pixels", f"{row[WIDTH_PX]} \N{MULTIPLICATION SIGN} {row[HEIGHT_PX]}"
