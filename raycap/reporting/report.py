"""The report: one HTML file about anything that raycap wrote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycap.captioning.record import read_run
from raycap.config import ReportConfig
from raycap.errors import ConfigError, DatasetError
from raycap.images.decoding import prepare_process
from raycap.reporting.calibration import calibration_section
from raycap.reporting.captions import captions_section
from raycap.reporting.comparison import comparison_section
from raycap.reporting.dataset import dataset_section
from raycap.reporting.evaluation import evaluation_section
from raycap.reporting.page import Section, render
from raycap.reporting.search import search_section
from raycap.reporting.study import study_section
from raycap.reporting.training import TrainingSection, training_section
from raycap.results.calibration import CALIBRATION
from raycap.results.dataset import DATASET, PLAN
from raycap.results.evaluation import EVALUATION
from raycap.results.search import SEARCH
from raycap.results.study import STUDY
from raycap.runs.records import RUN
from raycap.storage.base import Store
from raycap.storage.stores import open_file, open_store


def _run_section(store: Store, anchor: str, config: ReportConfig) -> Section:
    """Build the section of an output that holds `run.json`: of training, or of captioning."""
    is_training = "kind" in read_run(store).get("fingerprint", {})
    return (training_section if is_training else captions_section)(store, anchor, config)


_BUILDERS: dict[str, Callable[[Store, str, ReportConfig], Section]] = {
    EVALUATION: evaluation_section,
    CALIBRATION: lambda store, anchor, _: calibration_section(store, anchor),
    STUDY: lambda store, anchor, _: study_section(store, anchor),  # its folder has a RUN too
    SEARCH: lambda store, anchor, _: search_section(store, anchor),  # and this one
    RUN: _run_section,
    DATASET: dataset_section,
    PLAN: dataset_section,  # refused by it: unfinished
}
"""What stands in a folder tells what it is, and so how its section is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSummary:
    """What a report came to."""

    path: str
    """Where the page stands."""
    num_bytes: int
    num_sections: int
    num_examples: int
    """Images in the galleries."""
    num_unreadable: int
    """Those of them whose picture could not be shown; the page tells why."""


def report(
    paths: Sequence[str | Path],
    destination: str | Path,
    *,
    config: ReportConfig | None = None,
) -> ReportSummary:
    """Write one HTML file about anything that raycap wrote, which works without a network.

    The same inputs give the same file.

    Args:
        paths: what `raycap caption`, `evaluate`, `prepare`, `train`, `tune`, `calibrate` or `study`
            wrote, local or in buckets; each becomes a section, and several training runs one more
            that compares them.
        destination: the file to write or replace, local or in a bucket.
        config: how many images, of which size; defaults where it is None.

    Raises:
        ConfigError: an address is wrong, or there is no path.
        DatasetError: a path is none of these, is unfinished, or is damaged.
        StorageError: a store refuses.
    """
    config = config or ReportConfig()
    if not paths:
        raise ConfigError("nothing to report on; name what a raycap command wrote")
    prepare_process(config.image)
    store, key = open_file(str(destination), config.storage, example="report.html")
    sections: list[Section] = [
        _section(str(path), f"part-{number}", config) for number, path in enumerate(paths, start=1)
    ]
    page = render(_with_comparison(sections)).encode()
    store.write(key, page)
    galleries = [section.gallery for section in sections if section.gallery is not None]
    return ReportSummary(
        path=store.address(key),
        num_bytes=len(page),
        num_sections=len(sections),
        num_examples=sum(len(gallery.examples) for gallery in galleries),
        num_unreadable=sum(gallery.num_unreadable for gallery in galleries),
    )


def _section(uri: str, anchor: str, config: ReportConfig) -> Section:
    """Build the section of what stands at an address."""
    store = open_store(uri, config.storage)
    for mark, build in _BUILDERS.items():
        if store.exists(mark):
            return build(store, anchor, config)
    raise DatasetError(
        f"{store.uri}: is nothing that raycap wrote (it has no {EVALUATION}, {RUN} or {DATASET}); "
        "give the folder or bucket prefix that a raycap command wrote to"
    )


def _with_comparison(sections: list[Section]) -> list[Section]:
    """Put a comparison before the first of several training runs."""
    places = [place for place, it in enumerate(sections) if isinstance(it, TrainingSection)]
    if len(places) < 2:
        return sections
    runs = [section.run for section in sections if isinstance(section, TrainingSection)]
    comparison = comparison_section(runs, "comparison")
    return [*sections[: places[0]], comparison, *sections[places[0] :]]
