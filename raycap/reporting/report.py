"""The report: one HTML file about any outputs of raycap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raycap.config import EditsMode, ReportConfig, renamed
from raycap.config.loading import override
from raycap.errors import ConfigError, DatasetError
from raycap.images.decoding import prepare_process
from raycap.reporting.blocks import Section
from raycap.reporting.calibration import calibration_section
from raycap.reporting.captions import captions_section
from raycap.reporting.dataset import dataset_section
from raycap.reporting.evaluation import evaluation_section
from raycap.reporting.page import render
from raycap.reporting.search import search_section
from raycap.reporting.study import study_section
from raycap.reporting.training import TrainingSection, comparison_section, training_section
from raycap.results.calibration import CALIBRATION
from raycap.results.captioning import read_run
from raycap.results.dataset import DATASET, PLAN
from raycap.results.evaluation import EVALUATION
from raycap.results.search import SEARCH
from raycap.results.study import STUDY
from raycap.runs.records import RUN
from raycap.storage.address import check_exists
from raycap.storage.base import Store
from raycap.storage.stores import open_file, open_store


def _run_section(store: Store, anchor: str, config: ReportConfig) -> Section:
    """Build the section of an output with a `run.json` only: of training, or of captioning."""
    is_training = "kind" in read_run(store).get("fingerprint", {})
    return (training_section if is_training else captions_section)(store, anchor, config)


_BUILDERS: dict[str, Callable[[Store, str, ReportConfig], Section]] = {
    EVALUATION: evaluation_section,
    CALIBRATION: calibration_section,
    STUDY: study_section,  # before RUN, which its output has too
    SEARCH: search_section,  # likewise
    RUN: _run_section,
    DATASET: dataset_section,
    PLAN: dataset_section,  # raises: unfinished
}
"""All kinds of sections, by the file that identifies the output. The first match decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSummary:
    """Result of writing a report."""

    path: str
    """Address of the page."""
    num_bytes: int
    num_sections: int
    num_examples: int
    """Images in the galleries."""
    num_unreadable: int
    """Images whose picture could not be shown; the page gives the reasons."""


@renamed(destination="output")
def report(
    paths: str | Path | Sequence[str | Path],
    output: str | Path = "report.html",
    *,
    edits: EditsMode | str | None = None,
    config: ReportConfig | None = None,
) -> ReportSummary:
    """Write one HTML file about any outputs of raycap; it works without a network.

    The same inputs give the same file.

    Args:
        paths: outputs of `raycap caption`, `evaluate`, `prepare`, `train`, `tune`, `calibrate` or
            `study`, local or in buckets, or one of them. Each becomes a section; several training
            runs are compared in a further one.
        output: the file to write or overwrite, local or in a bucket.
        edits: shorthand for the setting `edits`.
        config: number and size of images; None for the defaults.

    Raises:
        ConfigError: an address is invalid, or there is no path.
        DatasetError: a path is none of these outputs, is unfinished, or is damaged.
        StorageError: a store refuses.
    """
    config = override(config or ReportConfig(), {"edits": edits})
    if not paths:
        raise ConfigError("nothing to report on; give the output of a raycap command")
    outputs = [paths] if isinstance(paths, str | Path) else paths
    prepare_process(config.image)
    store, key = open_file(str(output), config.storage, example="report.html")
    sections = [
        _section(str(path), f"part-{number}", config)
        for number, path in enumerate(outputs, start=1)
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
    """Build the section of the output at an address."""
    store = open_store(uri, config.storage)
    for key, build in _BUILDERS.items():
        if store.exists(key):
            return build(store, anchor, config)
    check_exists(store.uri)
    raise DatasetError(
        f"{store.uri}: is not an output of raycap (it has no {EVALUATION}, {RUN} or {DATASET}); "
        "give the folder or bucket prefix that a raycap command wrote to",
        uri=store.uri,
    )


def _with_comparison(sections: list[Section]) -> list[Section]:
    """Insert a comparison before the first of several training runs."""
    trainings = [section for section in sections if isinstance(section, TrainingSection)]
    if len(trainings) < 2:
        return sections
    comparison = comparison_section([section.run for section in trainings], "comparison")
    place = sections.index(trainings[0])
    return [*sections[:place], comparison, *sections[place:]]
