"""What a person sees of a search: the trials, the best first; lines where there is no terminal."""

import io
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from raycap.console.tune import (
    Pace,
    print_search,
    search_table,
    show_search,
)
from raycap.results.search import Search, SearchProgress
from raycap.results.shown.experiments import describe_params, search_rows, show
from raycap.results.status import Status
from tests.support.tuned import search_of, trial

TRIALS = [
    trial("t-1", 0.25, 0.5, params={"train.lr": 0.01, "train.batch_size": 16}),
    trial("t-2", 0.75, 0.625, params={"train.lr": 0.001, "train.batch_size": 16}),
    trial("t-3", 0.1, status=Status.STOPPED),
    trial("t-4", status=Status.FAILED, reason="ModelError: [red]memory[/red]\n" + "x" * 99),
]
Print = Callable[[Search], list[str]]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Print:
    """Give the lines that are printed on a wide terminal."""

    def lines(found: Search) -> list[str]:
        monkeypatch.setenv("COLUMNS", "160")
        print_search(found)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def shown(found: Search, width: int = 160) -> list[str]:
    sink = io.StringIO()
    Console(file=sink, width=width).print(search_table(found))
    return [line.rstrip() for line in sink.getvalue().splitlines()]


def test_trials_are_shown_best_first_with_their_settings() -> None:
    head, *lines = shown(search_of(TRIALS, best="t-2"))
    assert head.split() == ["trial", "lr", "batch_size", "epochs", "cider_d", "gap", "status"]
    assert [line.split()[0] for line in lines] == ["t-2", "t-1", "t-3", "t-4"]
    assert lines[0].split() == [
        *("t-2", "0.001", "16", "2", "0.750", "0.250", "finished,", "best"),
    ]
    assert lines[2].split() == ["t-3", "0.001", "16", "1", "0.100", "0.250", "stopped"]
    assert lines[3].split()[3:6] == ["0", "-", "-"]


def test_a_reason_is_brief_and_never_markup() -> None:
    line = shown(search_of(TRIALS))[-1]
    assert "failed: ModelError: [red]memory[/red] xxx" in line
    assert line.endswith("...")


def test_trials_that_run_come_first() -> None:
    running = trial("t-9", 0.05, status=Status.RUNNING)
    lines = shown(search_of([*TRIALS, running], best="t-2"))
    assert lines[1].split()[0] == "t-9"
    assert lines[1].split()[-1] == "running"


def test_settings_of_the_same_last_name_are_shown_whole() -> None:
    space = {name: {"choice": [1]} for name in ("train.lr", "optimizer.lr", "train.seed")}
    head = shown(search_of([trial("t-1", 0.5, params={"train.lr": None})], space=space))[0]
    assert head.split()[1:4] == ["train.lr", "optimizer.lr", "seed"]


def test_of_many_trials_the_best_are_shown_and_the_rest_counted() -> None:
    trials = [trial(f"t-{number}", number / 100) for number in range(30)]
    found = search_of(trials, best="t-29", num_planned=40)
    lines = shown(found)
    assert [line.split()[0] for line in lines[1:3]] == ["t-29", "t-28"]
    assert len(lines) == 21
    told = dict(search_rows(found))["trials"]
    assert re.findall(r"\d+", told) == ["30", "40", "20"]


def test_the_result_tells_the_counts_the_end_the_best_and_what_to_do_next(printed: Print) -> None:
    lines = printed(search_of(TRIALS, best="t-2", end="budget", num_planned=9))
    told = "\n".join(" ".join(line.split()) for line in lines)
    assert "trials 2 finished, 1 stopped, 1 failed of 9 " in told
    assert "ended budget" in told
    assert "best train.batch_size=16 train.lr=0.001: cider_d 0.750" in told
    assert "output /my search" in told
    assert "raycap caption YOUR_FOLDER captions/ --model '/my search/model'" in told
    assert "raycap train /prepared/scenes longer/ --config '/my search/best.yaml'" in told
    assert "raycap report '/my search' --output search.html" in told


def test_a_search_that_ran_to_its_end_says_nothing_of_a_budget() -> None:
    rows = dict(search_rows(search_of(TRIALS, best="t-2")))
    assert rows.keys() == {"trials", "best", "output"}
    assert dict(search_rows(search_of([]))) == {
        "trials": "none of 0 planned",
        "output": "/my search",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-05"), (0.123456, "0.1235"), (16, "16"), (None, "None"), (True, "True"), ("a", "a")],
)
def test_values_are_written_briefly(value: object, text: str) -> None:
    assert show(value) == text
    assert describe_params(trial("t-1", params={"a.b": value})) == f"a.b={text}"


def progress(search: Search, name: str | None, *notes: str) -> SearchProgress:
    return SearchProgress(
        search=search, trial=None if name is None else search.trial(name), notes=notes
    )


def test_a_terminal_shows_the_table_as_it_grows() -> None:
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=True, width=140)
    with show_search(console) as on_progress:
        on_progress(progress(search_of(TRIALS[:1]), None))
        on_progress(progress(search_of(TRIALS, best="t-2"), "t-3"))
    assert "starting" in sink.getvalue()
    assert "t-2" in sink.getvalue()


def test_without_a_terminal_each_step_of_a_trial_is_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def lines(search: Search, *names: Any) -> list[str]:
        caplog.clear()
        with show_search(Console(file=io.StringIO())) as on_progress:
            for name in names:
                on_progress(progress(search, name))
        return caplog.messages

    found = lines(search_of(TRIALS, best="t-2"), None, "t-1", "t-4")
    assert found[0] == (
        "trial=t-1 train.batch_size=16 train.lr=0.01 status=finished epochs=2 cider_d=0.5 "
        "best=t-2:0.75 ended=4/4 eta=?"
    )
    assert found[1].startswith(
        "trial=t-4 train.batch_size=16 train.lr=0.001 status=failed epochs=0 cider_d=none "
        'best=t-2:0.75 ended=4/4 eta=? reason="ModelError: [red]memory[/red] '
    )
    assert "\n" not in found[1]
    (line,) = lines(search_of(TRIALS[3:]), "t-4")
    assert "best=none" in line


def test_the_pace_of_a_search_gives_its_eta() -> None:
    seconds = iter([0.0, 60.0, 120.0])
    pace = Pace(clock=lambda: next(seconds))
    running = trial("t-1", 0.25, status=Status.RUNNING)
    config = {"train": {"num_epochs": 4}}
    planned = {"num_planned": 4, "config": config}
    first = pace.describe(search_of([running], **planned))  # a quarter of one of four trials
    assert first == "0 of 4 trials ended, 1 running, ETA ?"
    ended = trial("t-1", 0.25, 0.5)
    assert pace.eta_s(search_of([ended], **planned)) == pytest.approx(60 * 0.75 / 0.1875)
    half = pace.describe(search_of([ended, trial("t-2", 0.5), running], **planned))
    assert half.startswith("2 of 4 trials ended, 1 running, ETA ")
