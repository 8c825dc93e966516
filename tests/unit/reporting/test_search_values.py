"""What is computed of a search for its page: ranks, importances, cells and axes."""

import math
from pathlib import Path

import pytest

from raycap.reporting.charts import drawn_text
from raycap.reporting.search_charts import divide, heat_cells
from raycap.reporting.search_values import (
    Value,
    explained,
    group,
    importances,
    parameter_scale,
)
from raycap.results.training import Metric, best_epoch
from tests.support.search_samples import (
    GRID,
    grid_trials,
    search_of,
    trial,
)

SVG = "{http://www.w3.org/2000/svg}"
NAN = float("nan")


@pytest.mark.parametrize("metric", ["loss", "cider_d", "length_gap"])
def test_trials_are_ranked_as_training_ranks_epochs(tmp_path: Path, metric: Metric) -> None:
    values = [0.5, -0.1, 0.3, 2.0, -3.0]
    search = search_of(tmp_path, grid_trials(values), metric=metric, best=None)
    for num_best in range(len(values)):
        rest = [trial.value for trial in search.trials if trial not in search.ranked[:num_best]]
        best = rest[
            best_epoch([value for value in rest if value is not None], [1.0] * len(rest), metric)
            - 1
        ]
        assert search.ranked[num_best].value == best


@pytest.mark.parametrize(
    ("groups", "values", "share"),
    [
        # Means 1 and 3 about 2: 4 between; no variance within.
        ([0, 0, 1, 1], [1.0, 1.0, 3.0, 3.0], 1.0),
        # Means 2 and 4 about 3: 4 between; 1 + 1 + 1 + 1 within.
        ([0, 0, 1, 1], [1.0, 3.0, 3.0, 5.0], 0.5),
        # Both means are the mean of all.
        ([0, 1, 0, 1], [1.0, 1.0, 3.0, 3.0], 0.0),
        # Means 1 (of three) and 5 about 2: 3 + 9 = 12 between; 2 within.
        ([0, 0, 0, 1], [0.0, 1.0, 2.0, 5.0], 12 / 14),
        ([0, 0, 0, 0], [1.0, 2.0, 3.0, 4.0], 0.0),
        ([0, 1, 2, 3], [0.1, 0.1, 0.1, 0.1], 0.0),
    ],
)
def test_what_a_parameter_explains_is_eta_squared(
    groups: list[int], values: list[float], share: float
) -> None:
    assert explained(groups, values) == pytest.approx(share)


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([16, 32, 16.0, 64], [0, 1, 0, 2]),
        (["a", "b", "a", None], [0, 1, 0, 2]),
        ([True, 1, False, 0, "1"], [0, 1, 2, 3, 4]),
        ([1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 4, 4]),
        # Quartiles 2.75, 4.5 and 6.25.
        ([8, 7, 6, 5, 4, 3, 2, 1], [3, 3, 2, 2, 1, 1, 0, 0]),
        ([8, 7, None, 6, 5, 4, 3, 2, 1], [3, 3, 4, 2, 2, 1, 1, 0, 0]),
    ],
)
def test_a_parameters_values_are_grouped(values: list[Value], groups: list[int]) -> None:
    assert group(values) == groups


def test_importances_need_four_trials_and_count_those_stopped_early(tmp_path: Path) -> None:
    trials = grid_trials([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    trials[5] |= {"status": "failed"}
    trials[4] |= {"status": "stopped"}
    trials[3] |= {"status": "running"}
    found = {item.parameter: item for item in importances(search_of(tmp_path / "a", trials))}
    assert found["train.batch_size"].share == pytest.approx(1.0)
    assert found["train.batch_size"].num_groups == 2
    # Means 1, 2 and 1 of 1, 2 and 1 trials, about 1.5: 0.25 + 0.5 + 0.25 of 3.
    assert found["train.lr"].share == pytest.approx(1 / 3)
    assert importances(search_of(tmp_path / "b", trials[:3])) == ()


def test_the_length_gap_counts_by_its_size(tmp_path: Path) -> None:
    trials = grid_trials([-1.0, -3.0, 1.0, 1.0, 3.0, -1.0])
    search = search_of(tmp_path, trials, metric="length_gap", space=GRID, best=None)
    shares = {item.parameter: item.share for item in importances(search)}
    assert shares["train.lr"] == pytest.approx(1.0)
    assert shares["train.batch_size"] == pytest.approx(0.0)
    cells = heat_cells(search)
    assert cells
    assert cells.means == ((1.0, 3.0, 1.0), (1.0, 3.0, 1.0))


def test_cells_hold_the_mean_of_their_trials(tmp_path: Path) -> None:
    again = trial(9, {"train.lr": 0.001, "train.batch_size": 32}, 0.4)
    search = search_of(tmp_path, [*grid_trials([0.1, 0.2, 0.3, 0.5, 0.6, 0.8])[1:], again])
    cells = heat_cells(search)
    assert cells
    assert (cells.across, cells.up) == ("train.lr", "train.batch_size")
    assert cells.columns == ("1e\N{MINUS SIGN}4", "0.0005", "0.001")
    assert cells.rows == ("16", "32")
    assert cells.means[0] == (None, 0.2, 0.3)
    assert cells.means[1] == (0.5, 0.6, (0.8 + 0.4) / 2)
    assert cells.counts == ((0, 1, 1), (1, 1, 2))


def test_the_map_is_of_what_matters_most_without_rate_and_batch_size(tmp_path: Path) -> None:
    trials = [
        trial(n, {"a.one": n % 2, "a.most": n // 4, "a.some": n // 2 % 2, "a.same": 1}, value)
        for n, value in enumerate([0.0, 0.01, 0.1, 0.11, 1.0, 1.01, 1.1, 1.11])
    ]
    cells = heat_cells(search_of(tmp_path, trials, space={}))
    assert cells
    assert (cells.across, cells.up) == ("a.most", "a.some")


def test_many_values_are_put_into_bins() -> None:
    names, places = divide([*range(1, 11), None])
    assert [name.replace("\N{EN DASH}", " to ") for name in names] == [
        "1 to 2",
        "3 to 4",
        "5 to 6",
        "7 to 8",
        "9 to 10",
        "other",
    ]
    assert places == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert divide([3, 1, None, "b", True]) == (("1", "3", "b", "none", "true"), [1, 0, 3, 2, 4])
    many = [f"name {number}" for number in range(12)]
    names, places = divide([*many, "name 0"])
    assert len(names) == 8
    assert (names[0], names[-1], places[0], places[11]) == ("name 0", "other", 0, 7)


@pytest.mark.parametrize(
    ("parameter", "low", "middle", "is_log"),
    [
        ("train.lr", 0.0001, 0.001, True),
        ("architecture.num_layers", 1, 2.5, False),
    ],
)
def test_axes_of_numbers(
    tmp_path: Path, parameter: str, low: float, middle: float, is_log: bool
) -> None:
    scale = parameter_scale(search_of(tmp_path), parameter)
    assert scale.is_log == is_log
    assert scale.place(low) == 0
    assert scale.place(middle) == pytest.approx(0.5)
    assert math.isnan(scale.place(None))
    assert math.isnan(scale.place("text"))


def test_a_narrow_range_of_rates_has_an_even_axis(tmp_path: Path) -> None:
    trials = [trial(n, {"train.lr": 0.001 * (n + 1)}, 0.5) for n in range(4)]
    scale = parameter_scale(search_of(tmp_path, trials, space={}), "train.lr")
    assert not scale.is_log
    assert scale.place(0.0025) == pytest.approx(0.5)
    wide = [trial(n, {"train.lr": 0.001 * 10**n}, 0.5) for n in range(3)]
    assert parameter_scale(search_of(tmp_path, wide, space={}), "train.lr").is_log
    zero = [trial(n, {"train.lr": 0.1 * n}, 0.5) for n in range(3)]
    assert not parameter_scale(search_of(tmp_path, zero, space={}), "train.lr").is_log


def test_choices_are_spaced_evenly(tmp_path: Path) -> None:
    trials = [trial(n, {"a.x": value}, 0.5) for n, value in enumerate(["b", True, None, 3])]
    scale = parameter_scale(search_of(tmp_path, trials, space={"a.x": {"choice": ["b"]}}), "a.x")
    assert scale.choices == ("b", "true", "none", "3")
    assert [scale.place(value) for value in ("b", True, None, 3)] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert math.isnan(scale.place("c"))


def test_one_value_alone_has_its_place_in_the_middle(tmp_path: Path) -> None:
    trials = [trial(1, {"a.n": 3, "a.t": "x"}, 0.5)]
    search = search_of(tmp_path, trials, space={})
    assert parameter_scale(search, "a.n").place(3) == 0.5
    assert parameter_scale(search, "a.t").place("x") == 0.5


def test_texts_of_drawings_have_letters_of_their_font() -> None:
    assert drawn_text("résumé $x$") == "résumé $x$"
    assert drawn_text("a\u4e2d\x00\ud800b") == "a???b"
    assert drawn_text("a" * 15) == "a" * 13 + "\N{HORIZONTAL ELLIPSIS}"
