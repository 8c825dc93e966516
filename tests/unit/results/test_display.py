"""Results show themselves: in a few lines on a terminal, and as HTML that no text can break."""

from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raycap.config import StorageConfig
from raycap.results.calibration import Calibration
from raycap.results.captioning import Forecast, OutputStatus, Verification
from raycap.results.dataset import read_record
from raycap.results.display import Displayed
from raycap.results.outputs import Completeness, OutputKind, State, WorkStatus
from raycap.results.shown.registry import DESCRIBED
from raycap.results.training import EpochRecord, Training, read_training
from raycap.storage.stores import open_store
from tests.support.dataset_samples import dataset_row, write_dataset
from tests.support.evaluation_samples import run, write_corpus
from tests.support.outputs import summary
from tests.support.study_samples import study_of
from tests.support.training_samples import training_history, write_calibration_sample, write_run
from tests.support.tuned import search_of, trial

WORK = WorkStatus(
    kind=OutputKind.TRAINING,
    output="run",
    state=State.STOPPED,
    unit="epochs",
    num_done=2,
    num_total=5,
)


def training(folder: Path, history: list[EpochRecord] | None = None) -> Training:
    """Give the record of a run."""
    found = read_training(open_store(write_run(folder, history), StorageConfig()))
    assert found is not None
    return found


def calibration(folder: Path) -> Calibration:
    return write_calibration_sample(folder)


def dataset(folder: Path) -> Displayed:
    rows = [dataset_row("a.jpg", "train", ["a cat"])]
    uri = write_dataset(folder, rows, [], embedded=False)
    return read_record(open_store(uri, StorageConfig()))


def evaluation(folder: Path) -> Displayed:
    systems, references = write_corpus(folder, 12, num_systems=2)
    return run(systems, references)


RESULTS: dict[str, Callable[[Path], Displayed]] = {
    "Calibration": calibration,
    "Completeness": lambda _: Completeness(status=WORK, problems=["model/: is missing"]),
    "DatasetRecord": dataset,
    "Evaluation": evaluation,
    "Forecast": lambda _: Forecast(
        num_images=9, num_bytes=1, num_parts=1, num_parts_done=0, num_images_done=0, num_pending=9
    ),
    "OutputStatus": lambda _: OutputStatus(state="starting", beat=None, age_s=None),
    "Search": lambda _: search_of([trial("t-1", 0.25, 0.5), trial("t-2")], best="t-1"),
    "Study": study_of,
    "Summary": lambda _: summary(9),
    "Training": training,
    "Verification": lambda _: Verification(num_images=9, num_ok=9),
    "WorkStatus": lambda _: WORK,
}


class Wellformed(HTMLParser):
    """Follows the tags of a page, which must all be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        del tag, attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def texts_of(html: str) -> list[str]:
    """Give the texts of HTML that is complete in itself."""
    page = Wellformed()
    page.feed(html)
    assert page.open == []
    assert not any(word in html for word in ("<script", "<style", "http", "src="))
    return page.texts


def test_there_is_a_sample_of_every_type() -> None:
    assert set(RESULTS) == {kind.__name__ for kind in DESCRIBED}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_shows_the_same_as_text_and_as_html(name: str, tmp_path: Path) -> None:
    found = RESULTS[name](tmp_path)
    assert type(found) in DESCRIBED
    assert repr(found) == str(found)
    shown = found.shown()
    texts = texts_of(found._repr_html_())
    for label, value in shown.rows:
        assert label in repr(found)
        assert value in texts or not value
    assert len(repr(found).splitlines()) < 40
    assert len(found._repr_html_()) < 20_000


def test_texts_of_users_are_escaped() -> None:
    name = '<img src="x" onerror="alert(1)">'
    html = replace(summary(1), output=name)._repr_html_()
    assert "<img" not in html
    assert "&lt;img" in html


def test_rows_of_a_row_are_indented_in_html_too() -> None:
    found = replace(summary(3), failed={"too_large": 1})
    assert "  too_large" in texts_of(found._repr_html_())
    assert "white-space:pre-wrap" in found._repr_html_()


def test_an_evaluation_shows_each_system_with_intervals(tmp_path: Path) -> None:
    found = evaluation(tmp_path)
    table = found.shown().tables[0]
    assert list(table.headings) == ["", "system-0", "system-1"]
    cider = next(row for row in table.rows if row[0] == "CIDEr-D")
    assert all("[" in cell and "," in cell for cell in cider[1:])


def test_a_training_shows_its_curves_and_since_when_it_overfits(tmp_path: Path) -> None:
    history = training_history(num_epochs=8, turn=5)
    overfits = replace(training(tmp_path, history), overfits_since=6)
    html = overfits._repr_html_()
    texts = texts_of(html)
    assert html.count("<polyline") == 2
    assert {"validation loss", "training loss", "overfitting", "epoch 1", "epoch 8"} <= {*texts}
    assert "<rect" not in replace(overfits, overfits_since=None)._repr_html_()
    alone = replace(overfits, history=history[:1], best=history[0], last=history[0])
    assert "<svg" not in replace(alone, overfits_since=None)._repr_html_()


def test_what_is_written_is_as_before() -> None:
    assert asdict(summary(3))["num_images"] == 3
    assert summary(3) == summary(3)
