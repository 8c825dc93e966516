"""Hyperparameter searches in the report: trials, charts and their descriptions."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from raycap.errors import DatasetError
from raycap.reporting.report import report
from raycap.reporting.search import trial_table
from raycap.results.search import SEARCH
from tests.support.report_samples import pillow_as_it_was
from tests.support.search_samples import (
    GRID,
    grid_trials,
    search_of,
    trial,
    write_search,
)
from tests.support.taken_apart import (
    HOSTILE,
    SVG,
    Page,
    assert_nothing_is_markup,
    drawings,
    told,
)

__all__ = ["pillow_as_it_was"]

pytestmark = pytest.mark.usefixtures("pillow_as_it_was")

NAN = float("nan")


def page_of(folder: Path, *args: Any, **changes: Any) -> Page:
    """Report on a search; its page stands in `page.html`."""
    report(write_search(folder / "search", *args, **changes), folder / "page.html")
    return Page(folder / "page.html")


def test_a_search_shows_its_best_settings_its_trials_and_what_matters(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    for shown in (
        "search: hybrid tuned on scenes",
        "random search",
        "early stopping by ASHA",
        "finished after 19 trials",
        "19 of 20 14 finished, 4 stopped, 1 failed, 1 running",
        "best CIDEr-D 1.124 epoch 5 of t-00000009",
        "time 7.0 min of the last invocation; 12.",
        "train.lr 0.001145 train.batch_size 16",
        "optimizer.clip_norm 1",
        "1 trial failed. t-0000005a: ModelError: loss was not finite in epoch 1",
        "t-00000009 best finished 0.001145 16 2 small-cnn 1 5 1.124 1.313 +0.567 29.1",
        "one-way eta squared",
        "at least 4 trials",
        "search train.lr loguniform: 1e\N{MINUS SIGN}4, 0.01",
        "search optimizer.clip_norm choice: 1, none",
        "train.num_epochs 5",
        "version.raycap 0.1.0",
    ):
        assert shown in page.text, shown
    assert "not finished" not in page.text


def test_every_plot_is_drawn_and_told_in_words(tmp_path: Path) -> None:
    page_of(tmp_path)
    found = drawings(tmp_path)
    assert found.keys() == {"parallel", "curves", "importance", "map"}
    assert "18 trials as lines through 5 parameters. The best is t-00000009" in told(
        found["parallel"]
    )
    assert "18 trials by epoch; 4 of them" in told(found["curves"])
    assert "explains: train.lr 69.1 %, train.batch_size" in told(found["importance"])
    assert "train.lr 1e\N{MINUS SIGN}4\N{EN DASH}2.3e\N{MINUS SIGN}4" in told(found["map"])
    assert all(
        svg.attrib["role"] == "img" and svg.findtext(f"{SVG}title") for svg in found.values()
    )
    page = Page(tmp_path / "page.html")
    assert not any("style" in attributes for _, attributes in page.tags)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_search_gives_the_same_page(tmp_path: Path) -> None:
    page_of(tmp_path)
    first = (tmp_path / "page.html").read_bytes()
    page_of(tmp_path)
    assert (tmp_path / "page.html").read_bytes() == first


def test_a_search_that_goes_on_says_so(tmp_path: Path) -> None:
    trials = grid_trials([0.5, 0.6])
    page = page_of(tmp_path, trials, space=GRID, end="", num_planned=6, best=None, finished_at="")
    assert "not finished: 2 of 6 trials so far" in page.text
    assert "The same `raycap tune` command continues it." in page.text
    assert "once 4 trials have ended with a value; 2 have so far." in page.text
    assert "best CIDEr-D 0.600" in page.text  # though the record names none yet
    assert "importance" not in drawings(tmp_path)
    assert "map" in drawings(tmp_path)


def test_a_search_without_a_trial_yet_shows_its_settings(tmp_path: Path) -> None:
    page = page_of(tmp_path, [], end="", num_planned=20, best=None)
    assert "trials 0 of 20 none has begun" in page.text
    assert "No trial has a value yet" in page.text
    assert "search train.batch_size choice: 16, 32, 64" in page.text
    assert drawings(tmp_path) == {}


@pytest.mark.parametrize("status", ["failed", "running"])
def test_trials_without_a_value_leave_nothing_to_compare(tmp_path: Path, status: str) -> None:
    trials = [trial(1, {"train.lr": 0.1}, None, status=status, reason="no memory")]
    page = page_of(tmp_path, trials, space={"train.lr": {"grid": [0.1]}})
    assert "No trial has a value yet" in page.text
    assert f"t-00000001 {status} 0.1 0 \N{EN DASH} \N{EN DASH} \N{EN DASH} 21.1" in page.text
    assert drawings(tmp_path) == {}


def test_the_curve_of_a_running_trial_is_drawn_before_any_has_ended(tmp_path: Path) -> None:
    going = trial(1, {"train.lr": 0.1}, 0.4, status="running", best_epoch=None)
    going["value"] = None
    page = page_of(tmp_path, [going], space={"train.lr": {"grid": [0.1]}}, end="")
    assert drawings(tmp_path).keys() == {"curves"}
    assert "t-00000001 running 0.1 5 \N{EN DASH}" in page.text


def test_the_best_trial_may_be_one_that_goes_on(tmp_path: Path) -> None:
    trials = grid_trials([0.5, 0.6, 0.9])
    trials[2] |= {"status": "running"}
    search = search_of(tmp_path, trials, space=GRID, end="budget", best="t-00000002")
    assert search.best_trial
    assert search.best_trial.name == "t-00000002"
    assert [trial.name for trial in search.ended] == ["t-00000001", "t-00000000"]


def test_a_search_over_one_parameter_has_no_map(tmp_path: Path) -> None:
    trials = [trial(n, {"train.lr": 0.001 * (n + 1)}, 0.5 + 0.1 * n) for n in range(4)]
    page_of(tmp_path, trials, space={"train.lr": {"uniform": [0.001, 0.01]}})
    assert drawings(tmp_path).keys() == {"parallel", "curves", "importance"}


def test_one_trial_alone_is_drawn(tmp_path: Path) -> None:
    page_of(tmp_path, [trial(1, {"a.n": 3, "a.t": "x"}, 0.5)], space={})
    assert drawings(tmp_path).keys() == {"parallel", "curves"}


def test_a_search_ended_by_its_budget_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, grid_trials([0.5, 0.6]), end="budget", num_planned=6)
    assert "ended by its budget after 2 of 6 trials" in page.text
    assert "not finished" not in page.text


def test_failed_trials_are_counted_and_come_last(tmp_path: Path) -> None:
    failed = [
        trial(50 + n, {"train.lr": 0.1}, 9.0 if n else None, status="failed", reason=f"bad {n}")
        for n in range(5)
    ]
    page = page_of(tmp_path, [*failed, *grid_trials([0.5, 0.7])], space=GRID)
    assert (
        "5 trials failed. t-00000032: bad 0; t-00000033: bad 1; t-00000034: bad 2; and 2 more"
        in page.text
    )
    search = search_of(tmp_path / "again", [*failed, *grid_trials([0.5, 0.7])], space=GRID)
    names = [row.name for row in trial_table(search).shown]
    assert names[:2] == ["t-00000001", "t-00000000"]
    assert set(names[2:]) == {item["name"] for item in failed}
    assert search.best_trial
    assert search.best_trial.name == "t-00000001"


def test_trials_beyond_the_best_are_folded_away(tmp_path: Path) -> None:
    trials = [trial(n, {"train.lr": 0.001 * (n % 7 + 1)}, n / 60) for n in range(53)]
    page = page_of(tmp_path, trials, space={"train.lr": {"uniform": [0, 1]}})
    assert "The 50 best of 53 trials" in page.text
    assert "Other trials: 3" in page.text
    table = trial_table(search_of(tmp_path / "s", trials))
    assert [row.name for row in table.folded] == ["t-00000002", "t-00000001", "t-00000000"]


def test_the_loss_has_one_column_where_it_is_the_metric(tmp_path: Path) -> None:
    table = trial_table(search_of(tmp_path, grid_trials([0.5, 0.4]), metric="loss", space=GRID))
    assert table.columns[2:] == ("epochs", "validation loss", "gap", "seconds")
    assert all(len(row.cells) == len(table.columns) for row in table.shown)


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    trials = grid_trials([0.5, 0.6, 0.7, 0.8, 0.9])
    trials[0]["value"] = NAN
    for epoch in (0, 2):
        trials[1]["history"][epoch]["scores"]["cider_d"] = NAN
        trials[1]["history"][epoch]["validation_loss"] = NAN
    trials[2]["history"][4]["scores"] = {}
    page = page_of(tmp_path, trials, space=GRID)
    assert "nan" not in "".join(page.texts).lower()
    svgs = drawings(tmp_path)
    assert not any(
        re.search(r"\bnan\b", ElementTree.tostring(it, "unicode")) for it in svgs.values()
    )
    assert "4 trials as lines" in told(svgs["parallel"])
    assert "of 5 trials" in told(svgs["curves"])


def test_settings_that_are_missing_or_none_are_told_apart(tmp_path: Path) -> None:
    trials = [trial(1, {"a.b": None, "a.c": [1, "x"]}, 0.5), trial(2, {"a.b": "none"}, 0.6)]
    table = trial_table(search_of(tmp_path, trials, space={}))
    assert table.columns[:2] == ("a.b", "a.c")
    assert [row.cells[:2] for row in table.shown] == [
        ("none", "\N{EN DASH}"),
        ("none", "[1, 'x']"),
    ]


def test_more_parameters_than_axes_are_cut_to_those_that_matter(tmp_path: Path) -> None:
    trials = [trial(n, {f"a.p{k}": (n >> k) & 1 for k in range(10)}, n / 40) for n in range(32)]
    page = page_of(tmp_path, trials, space={})
    assert "the 8 most important of 10 parameters" in page.text
    names = "".join(drawings(tmp_path)["parallel"].itertext())
    assert "p4" in names
    assert "p9" not in names


def test_the_best_trial_and_those_stopped_early_are_marked(tmp_path: Path) -> None:
    trials = grid_trials([0.5, 0.6, 0.7, 0.8])
    page_of(tmp_path, trials, space=GRID)
    plain = drawings(tmp_path)["curves"]
    trials[0] |= {"status": "stopped"}
    page = page_of(tmp_path, trials, space=GRID)
    crossed = drawings(tmp_path)["curves"]
    assert len(list(crossed.iter(f"{SVG}use"))) == len(list(plain.iter(f"{SVG}use"))) + 1
    assert "A cross marks" in page.text
    for name in ("curves", "parallel"):
        assert "line-1" in ElementTree.tostring(drawings(tmp_path)[name], "unicode"), name


def test_whatever_a_search_holds_stays_text(tmp_path: Path) -> None:
    values = [HOSTILE, "$\\frac{$", "\u4e2d\x01", "<b>&amp;"]
    trials = [
        trial(
            n,
            {f"a.{HOSTILE}": value, HOSTILE: n, "$x_{$": 2 * n},
            0.1 * n,
            name=f"{HOSTILE}{n}",
            reason=HOSTILE,
            output=HOSTILE,
            status="failed" if n > 4 else "finished",
        )
        for n, value in enumerate(values * 2)
    ]
    page_of(
        tmp_path,
        trials,
        kind=HOSTILE,
        dataset=HOSTILE,
        algorithm=HOSTILE,
        scheduler=HOSTILE,
        end=HOSTILE,
        space={HOSTILE: {HOSTILE: [HOSTILE]}},
        started_at=HOSTILE,
        finished_at=HOSTILE,
        versions={HOSTILE: HOSTILE},
        config={HOSTILE: HOSTILE},
    )
    assert_nothing_is_markup(tmp_path / "page.html", num_galleries=0)


def test_long_reasons_are_cut(tmp_path: Path) -> None:
    failed = trial(1, {}, None, status="failed", reason="Traceback\n" + "line of it\n" * 500)
    text = page_of(tmp_path, [failed], space={}).text
    assert "Traceback line of it line of it" in text
    assert len(text) < 4000


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"metric": "beauty"}, "metric"),
        ({"trials": [{"name": "t"}]}, r"trials\.0"),
        ({"trials": None}, "trials"),
        ({"space": {"train.lr": [1, 2]}}, r"space\.train\.lr"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    output = write_search(tmp_path / "s")
    file = tmp_path / "s" / SEARCH
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(DatasetError, match=place) as caught:
        report([output], tmp_path / "page.html")
    assert caught.value.uri == str(file)
    file.write_text("{")
    with pytest.raises(DatasetError, match="JSON") as caught:
        report([output], tmp_path / "page.html")
    assert caught.value.uri == str(file)
