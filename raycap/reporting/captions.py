"""The section of a caption output: counts, lengths, failures, throughput, images to look at."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from raycap.captioning.output import FinishedOutput, open_finished
from raycap.captioning.parts import read_captions_footer
from raycap.captioning.record import read_run
from raycap.config import ReportConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.reporting.axes import Plot
from raycap.reporting.blocks import Fact, Failure, Tile, failure_table, flat_facts, last_name
from raycap.reporting.captions_gallery import captions_gallery
from raycap.reporting.captions_rows import Overview, look_over
from raycap.reporting.gallery import Gallery
from raycap.reporting.numbers import byte_count, decimal, integer, moment, percent
from raycap.reporting.plots import Commit, Histogram, length_plot, throughput
from raycap.results.captioning import SUMMARY, Summary, read_summary
from raycap.storage.base import Store
from raycap.storage.parallel import ordered_map


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsSection:
    """What the page shows of a caption output."""

    template: ClassVar[str] = "captions.html.jinja"
    kind: ClassVar[str] = "Captions"

    anchor: str
    title: str
    address: str
    summary: tuple[str, ...]
    tiles: tuple[Tile, ...]
    lengths: Plot
    throughput: Plot | None
    failures: tuple[Failure, ...]
    settings: tuple[Fact, ...]
    gallery: Gallery


def captions_section(store: Store, anchor: str, config: ReportConfig) -> CaptionsSection:
    """Read a finished caption output, and build its section.

    Raises:
        DatasetError: it is unfinished or damaged.
        StorageError: the store refuses.
    """
    output = open_finished(store.uri, config.storage)
    summary, run = _read_summary(store), read_run(store)
    overview = look_over(output, config.num_examples, config.seed)
    model = str(summary.model.get("name", "an unknown model"))
    mean = overview.num_words / max(1, overview.num_ok)
    return CaptionsSection(
        anchor=anchor,
        title=f"{last_name(summary.source)}, captioned by {last_name(model)}",
        address=store.uri,
        summary=tuple(
            filter(None, [f"images of {summary.source}", model, moment(summary.finished_at)])
        ),
        tiles=_tiles(summary, overview),
        lengths=length_plot(
            f"{anchor}-length-plot", "words", Histogram(counts=overview.lengths, mean=mean)
        ),
        throughput=throughput(_commits(output), f"{anchor}-throughput-plot"),
        failures=failure_table(overview.failed, overview.messages),
        settings=_settings(summary, run),
        gallery=captions_gallery(output, overview.chosen, config),
    )


def _read_summary(store: Store) -> Summary:
    try:
        return read_summary(store)
    except ObjectNotFound:
        raise DatasetError(
            f"{store.uri}: has no {SUMMARY}, as its run was stopped just before its end; the same "
            "`raycap caption` command finishes it"
        ) from None


def _tiles(summary: Summary, overview: Overview) -> tuple[Tile, ...]:
    num_failed = overview.num_images - overview.num_ok
    tiles = [
        Tile(label="images", value=integer(overview.num_images)),
        Tile(label="captioned", value=integer(overview.num_ok)),
        Tile(
            label="failed",
            value=integer(num_failed),
            note=percent(num_failed / max(1, overview.num_images)),
        ),
        Tile(label="words a caption", value=decimal(summary.mean_words, 1)),
    ]
    if overview.mean_logprob is not None:
        tiles.append(Tile(label="log-probability", value=decimal(overview.mean_logprob, 2)))
    tiles.append(Tile(label="read", value=byte_count(summary.num_bytes)))
    if summary.num_captioned:
        note = f"{integer(summary.num_captioned)} in the last run"
        tiles.append(Tile(label="images/s", value=decimal(summary.images_per_s, 1), note=note))
    return tuple(tiles)


def _commits(output: FinishedOutput) -> list[Commit]:
    """Say of each part when it was written, and how many rows it has."""
    footers = ordered_map(
        partial(read_captions_footer, output.store), output.parts, output.config.list_threads
    )
    return [(footer.committed_at, footer.num_rows) for footer in footers]


def _settings(summary: Summary, run: dict[str, Any]) -> tuple[Fact, ...]:
    skipped = ", ".join(f"{integer(n)} {suffix}" for suffix, n in summary.skipped.items())
    return (
        ("source", summary.source),
        ("output", summary.output),
        ("started", moment(str(run.get("created_at", "")))),
        ("finished", moment(summary.finished_at)),
        ("time of the last run", f"{decimal(summary.wall_s, 1)} s"),
        *([("not images", skipped)] if skipped else []),
        *flat_facts(summary.model, "model"),
        *(fact for fact in flat_facts(run.get("config", {})) if not fact[0].startswith("model.")),
        *flat_facts(summary.versions, "version"),
    )
