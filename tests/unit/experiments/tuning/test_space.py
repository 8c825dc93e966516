"""The search space: values and ranges of settings, and repeatable points."""

import math
from pathlib import Path
from typing import Any

import pytest

from raycap.config import SearchConfig, TrainConfig, TuneConfig
from raycap.config.loading import load_config
from raycap.errors import ConfigError
from raycap.experiments.tuning.space import (
    Space,
    Values,
    most_epochs,
    num_suggested,
    points,
    read_space,
    trial_config,
)
from raycap.results.search import Params
from tests.support.tuned import tune_config


def space_of(given: dict[str, Any], **search: Any) -> Space:
    return read_space(tune_config(given, **search))


def drawn(space: Space, seed: int = 0, num_trials: int | None = 30) -> list[Params]:
    return points(space, SearchConfig(algorithm="random", seed=seed, num_trials=num_trials))


def test_lists_keep_their_order_and_no_value_twice() -> None:
    space = space_of({"train.lr": [1e-3, 1e-4, 1e-3], "train.batch_size": 8})
    assert space["train.lr"] == Values(choices=(1e-3, 1e-4))
    assert space["train.batch_size"] == Values(choices=(8,))
    assert space["train.lr"].describe() == {"choice": [1e-3, 1e-4]}


def test_nested_sections_and_dotted_names_mean_the_same() -> None:
    nested = space_of({"train": {"lr": [1e-3]}, "architecture": {"num_layers": [1, 2]}})
    dotted = space_of({"train.lr": [1e-3], "architecture.num_layers": [1, 2]})
    assert nested == dotted
    assert list(nested) == ["architecture.num_layers", "train.lr"]


def test_draws_lie_within_the_ends_of_a_range() -> None:
    space = space_of(
        {
            "architecture.dropout": {"uniform": [0.1, 0.5]},
            "train": {"lr": {"loguniform": [1e-5, 1e-1]}},
            "architecture.num_layers": {"integers": [1, 3]},
        },
        algorithm="random",
    )
    found = drawn(space, num_trials=200)
    dropouts, rates, layers = (
        [point[name] for point in found]
        for name in ("architecture.dropout", "train.lr", "architecture.num_layers")
    )
    assert 0.1 <= min(dropouts) < 0.15
    assert 0.45 < max(dropouts) <= 0.5
    assert set(layers) == {1, 2, 3}
    assert all(isinstance(number, int) for number in layers)
    assert 1e-5 <= min(rates) < max(rates) <= 1e-1
    # Half of them below the geometric middle, not the arithmetic one.
    assert 0.35 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.65
    assert [values.describe() for values in space.values()] == [
        {"uniform": [0.1, 0.5]},
        {"integers": [1, 3]},
        {"loguniform": [1e-5, 1e-1]},
    ]


def test_ray_tunes_domains_have_the_same_ends() -> None:
    space = space_of(
        {
            "architecture.dropout": {"uniform": [0.1, 0.5]},
            "train.lr": {"loguniform": [1e-5, 1e-1]},
            "architecture.num_layers": {"integers": [1, 3]},
            "architecture.encoder": ["resnet50", "small-cnn"],
        },
        algorithm="optuna",
    )
    domains = {name: values.domain() for name, values in space.items()}
    assert domains["architecture.encoder"].categories == ["resnet50", "small-cnn"]
    assert (domains["architecture.num_layers"].lower, domains["architecture.num_layers"].upper) == (
        1,
        4,  # Ray's is not included
    )
    assert (domains["train.lr"].lower, domains["train.lr"].upper) == (1e-5, 1e-1)


def test_texts_truth_values_and_null_are_choices() -> None:
    space = space_of(
        {
            "architecture.encoder": ["resnet50", "small-cnn"],
            "architecture.train_encoder": [True, False],
            "optimizer.clip_norm": [1.0, None],
            "augment.captions": "all",
        }
    )
    assert {name: values.choices for name, values in space.items()} == {
        "architecture.encoder": ("resnet50", "small-cnn"),
        "architecture.train_encoder": (True, False),
        "augment.captions": ("all",),
        "optimizer.clip_norm": (1.0, None),
    }


def test_texts_of_the_command_line_become_numbers() -> None:
    given = [
        "kind=cnn-lstm",
        "tune.algorithm=random",
        "tune.space.train.lr=['1e-5', 1e-3]",  # YAML reads 1e-3 as a text
        "tune.space.train.batch_size='8'",
        "tune.space.architecture.dropout={uniform: [0, '0.5']}",
        "tune.space.optimizer.weight_decay={loguniform: [1e-4, 1e-1]}",
    ]
    config = load_config(TuneConfig, None, given)
    space = read_space(config)
    assert space["train.lr"].choices == (1e-5, 1e-3)
    assert space["train.batch_size"].choices == (8,)
    assert space["architecture.dropout"].describe() == {"uniform": [0.0, 0.5]}
    assert space["optimizer.weight_decay"].describe() == {"loguniform": [1e-4, 1e-1]}


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("tune:\n  space:\n    train:\n      lr: [1e-4]\n      batch_size: [4, 8]\n")
    config = load_config(TuneConfig, file, ["tune.space.train.lr=[2e-4]"])
    space = read_space(config)
    assert (space["train.lr"].choices, space["train.batch_size"].choices) == ((2e-4,), (4, 8))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("blip", {"train.lr", "train.batch_size"}),
        ("hybrid", {"train.lr", "train.batch_size", "architecture.num_layers"}),
    ],
)
def test_each_kind_of_model_has_a_default_space(kind: str, names: set[str]) -> None:
    config = load_config(TuneConfig, None, [f"kind={kind}"])
    space = read_space(config)
    assert space.keys() == names
    assert all(len(values.choices) > 1 for values in space.values())
    assert len(points(space, config.tune)) == math.prod(len(it.choices) for it in space.values())


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"train.rate": [1]}, "tune.space.train.rate"),
        ({"trian.lr": [1]}, "tune.space.trian.lr"),
        ({"train.lr.x": [1]}, "tune.space.train.lr.x"),
        ({"train": [1]}, "tune.space.train"),
        ({"tune.seed": [1]}, "tune.space.tune.seed"),
        ({"train.lr": ["fast"]}, "tune.space.train.lr"),
        ({"train.lr": [0.1, -1]}, "tune.space.train.lr"),
        ({"train.lr": [math.inf]}, "tune.space.train.lr"),
        ({"train.batch_size": [1.5]}, "tune.space.train.batch_size"),
        ({"kind": ["vit"]}, "tune.space.kind"),
        ({"train.lr": []}, "tune.space.train.lr"),
        ({}, "tune.space"),
        ({"train": {}}, "tune.space"),
    ],
)
def test_a_wrong_name_or_value_is_named_in_one_line(given: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(given)
    assert caught.value.setting == setting
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("train.lr", {"uniform": [1e-3]}),
        ("train.lr", {"uniform": 1e-3}),
        ("train.lr", {"uniform": [2e-3, 1e-3]}),
        ("train.lr", {"uniform": [1e-3, 1e-3]}),
        ("augment.flip", {"loguniform": [0, 1]}),
        ("train.lr", {"integers": [1, 2]}),
        ("train.batch_size", {"uniform": [1, 2]}),
        ("architecture.encoder", {"uniform": [1, 2]}),
        ("optimizer.clip_norm", {"uniform": [None, 1]}),
        ("architecture.train_encoder", {"integers": [0, 1]}),
        ("train.lr", {"uniform": [-1, 1]}),
    ],
)
def test_a_wrong_range_is_named_in_one_line(name: str, given: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of({name: given}, algorithm="random")
    assert caught.value.setting == f"tune.space.{name}"
    assert "\n" not in str(caught.value)


def test_a_grid_refuses_a_range() -> None:
    with pytest.raises(ConfigError, match=r"tune\.algorithm=random") as caught:
        space_of({"train.lr": {"loguniform": [1e-4, 1e-3]}})
    assert caught.value.setting == "tune.space.train.lr"


def test_a_grid_has_every_combination_once_and_keeps_its_order_when_limited() -> None:
    space = space_of({"train.lr": [1e-3, 1e-4], "train.batch_size": [4, 8, 16]})
    every = points(space, SearchConfig())
    assert len(every) == 6
    assert every[0] == {"train.batch_size": 4, "train.lr": 1e-3}
    assert all(point not in every[:place] for place, point in enumerate(every))
    assert points(space, SearchConfig(num_trials=99)) == every
    some = points(space, SearchConfig(num_trials=3))
    assert len(some) == 3
    assert some == [point for point in every if point in some]
    assert points(space, SearchConfig(num_trials=3)) == some
    assert any(points(space, SearchConfig(num_trials=3, seed=seed)) != some for seed in (1, 2, 3))


def test_draws_repeat_for_the_same_seed_and_more_draws_extend_them() -> None:
    space = space_of({"train.lr": {"loguniform": [1e-5, 1e-3]}}, algorithm="random")
    assert drawn(space) == drawn(space)
    assert drawn(space)[:10] == drawn(space, num_trials=10)
    assert drawn(space) != drawn(space, seed=1)
    assert len(drawn(space, num_trials=None)) == 20
    assert num_suggested(SearchConfig()) == 20
    assert num_suggested(SearchConfig(num_trials=3)) == 3


def test_no_point_is_drawn_twice_and_a_small_space_is_exhausted() -> None:
    given = {"train.batch_size": {"integers": [1, 4]}, "train.lr": [1e-3, 1e-4]}
    space = space_of(given, algorithm="random")
    found = drawn(space, num_trials=50)
    assert len(found) == 8
    assert all(point not in found[:place] for place, point in enumerate(found))


def test_a_trials_settings_override_the_base_settings() -> None:
    base = TrainConfig(kind="transformer")
    found = trial_config(base, {"train.lr": 0.5, "architecture.width": 64, "kind": "hybrid"})
    assert (found.train.lr, found.architecture.width, found.kind) == (0.5, 64, "hybrid")
    assert found.train.batch_size == base.train.batch_size
    assert trial_config(base, {}) == base


def test_the_longest_trial_is_known_when_epochs_are_searched() -> None:
    base = tune_config(None).base()
    assert most_epochs({}, base) == base.train.num_epochs
    assert most_epochs(space_of({"train.num_epochs": [2, 9, 3]}), base) == 9
    given = {"train.num_epochs": {"integers": [1, 7]}}
    assert most_epochs(space_of(given, algorithm="random"), base) == 7


def test_an_invalid_combination_is_refused() -> None:
    base = TrainConfig(kind="transformer")
    with pytest.raises(ConfigError, match=r"architecture\.num_heads=7 .*width=512"):
        trial_config(base, {"architecture.num_heads": 7})
    assert trial_config(base, {"architecture.num_heads": 7, "kind": "hybrid"})
