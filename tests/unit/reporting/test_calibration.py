"""Calibrations in the report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raycap.errors import DatasetError
from raycap.reporting.calibration import trade_off_plot
from raycap.reporting.report import report
from raycap.results.calibration import frontier
from tests.support.report_samples import pillow_as_it_was
from tests.support.taken_apart import HOSTILE, Page, assert_nothing_is_markup
from tests.support.training_samples import trials_of, write_calibration_sample

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")


def test_a_calibration_shows_what_was_tried_and_chosen(tmp_path: Path) -> None:
    found = write_calibration_sample(tmp_path / "c")
    report([tmp_path / "c"], tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    for shown in (
        "blip, calibrated in length",
        "split validation of /data/scenes",
        "length gap \N{MINUS SIGN}0.14 before: \N{MINUS SIGN}10.00",
        "before: 7.6; people: 17.6",
        "CIDEr-D 1.243 before: 0.814",
        "1 (initial) 0 30 1 0 0.814",
        "15 (chosen) 12 30 1 3 1.243",
        "All settings: 16",
        "a CIDEr-D of 0.814",
        "search.ngram_sizes",
        "version.raycap 0.1.0",
    ):
        assert shown in text, shown
    assert found.trials.index(found.chosen) == 14


def test_the_curve_is_of_the_settings_that_no_other_beats(tmp_path: Path) -> None:
    found = write_calibration_sample(tmp_path / "c")
    svg = trade_off_plot("a", found).svg
    assert "stroke-line-0" in svg  # the curve
    assert "fill-line-1" in svg  # the start
    assert "stroke-line-2" in svg  # the ring of the chosen
    assert "\N{MINUS SIGN}0.14 with 1.243" in svg
    report([tmp_path / "c"], tmp_path / "page.html")
    best = {found.trials.index(trial) + 1 for trial in frontier(found.trials)}
    assert best == {14, 15}


def test_a_start_that_nothing_beats_is_listed_once(tmp_path: Path) -> None:
    (start, *_) = trials_of()
    perfect = replace(start, length_gap=0.0, cider_d=9.0)
    write_calibration_sample(tmp_path / "c", trials=[perfect], start=perfect, chosen=perfect)
    report([tmp_path / "c"], tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    assert text.count("1 (initial, chosen)") == 2  # in the table of the best, and in that of all


def test_whatever_a_calibration_holds_stays_text(tmp_path: Path) -> None:
    write_calibration_sample(
        tmp_path / "c",
        model={HOSTILE: HOSTILE, "name": HOSTILE},
        dataset={"source": HOSTILE},
        split=HOSTILE,
        tokenizer=HOSTILE,
        versions={HOSTILE: HOSTILE},
        created_at=HOSTILE,
        config={HOSTILE: HOSTILE},
    )
    report([tmp_path / "c"], tmp_path / "page.html")
    assert_nothing_is_markup(tmp_path / "page.html", num_galleries=0)


def test_a_damaged_calibration_is_named(tmp_path: Path) -> None:
    write_calibration_sample(tmp_path / "c")
    file = tmp_path / "c/calibration.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chosen": {"cider_d": "good"}}))
    with pytest.raises(DatasetError, match="chosen") as caught:
        report([tmp_path / "c"], tmp_path / "page.html")
    assert caught.value.uri == str(file)
