"""The systems of a study, and the settings of each."""

from pathlib import Path

import pytest

from raycap.config import StudyConfig
from raycap.config.loading import load_config
from raycap.errors import ConfigError
from raycap.experiments.study.planning import caption_config, plan_systems, train_config
from raycap.results.study import SystemRecord


def config(**values: object) -> StudyConfig:
    return StudyConfig.model_validate(values)


def named(settings: StudyConfig, name: str) -> SystemRecord:
    return next(system for system in plan_systems(settings) if system.name == name)


def test_the_default_study_is_that_of_the_original_project() -> None:
    systems = plan_systems(StudyConfig())
    assert [it.name for it in systems if it.is_main] == [
        "cnn-lstm",
        "transformer",
        "hybrid",
        "blip-pretrained",
        "blip-calibrated",
        "blip-finetuned",
    ]
    assert len(systems) == 2 + 4 * 5
    assert {it.name for it in systems if it.role == "hybrid"} == {
        "hybrid",
        "hybrid-plain",
        "hybrid-50",
        "hybrid-25",
        "hybrid-10",
    }
    assert len({it.name for it in systems}) == len(systems)


def test_the_table_has_each_role_once_on_most_images() -> None:
    systems = plan_systems(
        config(
            study={
                "systems": ["hybrid"],
                "subsets": [0.1, 0.5],
                "subsets_without_augmentation": [0.5],
            }
        )
    )
    assert [(it.name, it.is_main) for it in systems] == [
        ("hybrid-50", True),
        ("hybrid-50-plain", False),
        ("hybrid-10", False),
    ]


def test_a_study_without_augmentation_has_plain_systems_in_its_table() -> None:
    systems = plan_systems(
        config(
            study={"systems": ["cnn-lstm"], "subsets": [], "subsets_without_augmentation": [1.0]}
        )
    )
    assert [(it.name, it.is_main, it.is_augmented) for it in systems] == [
        ("cnn-lstm-plain", True, False)
    ]


def test_settings_of_a_kind_override_those_of_all_kinds() -> None:
    settings = config(
        pretrained="demo",
        training={"train": {"lr": 1e-3, "num_epochs": 7}},
        kinds={"blip": {"train": {"lr": 2e-5}}, "hybrid": {"architecture": {"width": 64}}},
    )
    blip = train_config(named(settings, "blip-finetuned"), settings)
    hybrid = train_config(named(settings, "hybrid-25"), settings)
    assert (blip.kind, blip.init, blip.train.lr, blip.train.num_epochs) == ("blip", "demo", 2e-5, 7)
    assert (hybrid.kind, hybrid.init, hybrid.train.lr) == ("hybrid", None, 1e-3)
    assert (hybrid.architecture.width, hybrid.train.subset) == (64, 0.25)
    assert hybrid.augment.enabled
    assert not train_config(named(settings, "hybrid-plain"), settings).augment.enabled


def test_a_wrong_setting_of_a_kind_is_named_with_its_system() -> None:
    settings = config(kinds={"hybrid": {"train": {"epochs": 3}}})
    with pytest.raises(ConfigError, match="hybrid") as caught:
        train_config(named(settings, "hybrid"), settings)
    assert caught.value.setting == "train.epochs"


def test_captioning_uses_the_test_split_and_the_models_own_search() -> None:
    found = caption_config("folder", config(captioning={"batch_size": 4}))
    assert (found.model.name, found.source.split, found.engine.batch_size) == ("folder", "test", 4)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("study.systems=[]", "systems"),
        ("study.systems=[hybrid, hybrid]", "systems"),
        ("study.systems=[resnet]", "study.systems.0"),
        ("study.subsets=[0.0]", "study.subsets.0"),
        ("kinds={vit: {}}", "kinds"),
        ("kinds={blip: {engine: {num_workers: 2}}}", "kinds.blip.engine"),
        ("training.train.subset=0.5", "study.subsets"),
        ("training.augment.enabled=false", "study.subsets_without_augmentation"),
        ("report.storage.timeout_s=3", "report.storage"),
    ],
)
def test_a_wrong_design_is_named_in_one_line(setting: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        load_config(StudyConfig, None, [setting])
    assert "\n" not in str(caught.value)


def test_the_configuration_that_ships_is_valid() -> None:
    settings = load_config(StudyConfig, Path("configs/study-scenes.yaml"), [])
    for system in plan_systems(settings):
        if system.role not in ("blip-pretrained", "blip-calibrated"):
            assert train_config(system, settings).train.subset == system.subset
