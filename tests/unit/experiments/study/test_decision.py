"""Conclusions of a study, and its summary in Markdown."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycap.errors import DatasetError
from raycap.experiments.study.decision import decide, pick_best, summarise
from raycap.experiments.study.planning import SYSTEMS
from raycap.results.evaluation import Comparison
from raycap.results.status import Status
from raycap.results.study import (
    CalibrationFound,
    Score,
    Study,
    SystemRecord,
    TrainingFound,
    read_study,
    write_study,
)
from raycap.storage.local import LocalStore


def trained(gap: float = 0.1, overfits_since: int | None = None) -> TrainingFound:
    return TrainingFound(
        num_images=1000,
        num_epochs=5,
        best_epoch=3,
        train_loss=1.0,
        fitted_loss=0.9,
        validation_loss=0.9 + gap,
        gap=gap,
        last_gap=gap,
        overfits_since=overfits_since,
        images_per_s=50.0,
        wall_s=60.0,
        peak_memory_bytes=2**30,
        peak_device_bytes=0,
    )


def scores(cider: float, words: float) -> dict[str, Score]:
    return {
        "cider_d": Score(value=cider, low=cider - 0.1, high=cider + 0.1),
        "bleu_4": Score(value=0.25),
        "mean_words": Score(value=words),
        "length_gap": Score(value=words - 17.4, low=-1.0, high=1.0),
    }


def systems() -> list[SystemRecord]:
    calibrated = CalibrationFound(
        gap_before=-9.5, gap_after=-0.4, cider_before=1.6, cider_after=3.6, wall_s=30.0
    )
    base: dict[str, Any] = {"is_main": True, "status": Status.FINISHED, "captioning_wall_s": 10.0}
    return [
        SystemRecord(
            name="hybrid", role="hybrid", training=trained(0.3, 4), scores=scores(2.0, 17.0), **base
        ),
        SystemRecord(
            name="blip-pretrained", role="blip-pretrained", scores=scores(1.6, 7.8), **base
        ),
        SystemRecord(
            name="blip-calibrated",
            role="blip-calibrated",
            calibration=calibrated,
            scores=scores(3.6, 16.9),
            **base,
        ),
        SystemRecord(
            name="blip-finetuned",
            role="blip-finetuned",
            training=trained(),
            scores=scores(6.9, 17.1),
            **base,
        ),
        SystemRecord(
            name="hybrid-25",
            role="hybrid",
            subset=0.25,
            training=trained(0.6),
            scores=scores(1.2, 16.0),
            status=Status.FINISHED,
        ),
        SystemRecord(
            name="hybrid-plain",
            role="hybrid",
            is_augmented=False,
            training=trained(0.5),
            scores=scores(1.9, 17.2),
            status=Status.FINISHED,
        ),
    ]


def comparison(p_value: float) -> Comparison:
    return Comparison(
        metric="cider_d",
        first="blip-calibrated",
        second="blip-finetuned",
        difference=-3.3,
        low=-3.5,
        high=-3.1,
        p_value=p_value,
    )


def in_order(line: str, *facts: str) -> bool:
    """Whether a line states these facts in this order."""
    return re.search(".*".join(map(re.escape, facts)), line) is not None


def study(found: list[SystemRecord]) -> Study:
    return Study(
        output="/study",
        dataset="/dataset",
        split="test",
        num_images=300,
        reference_mean_tokens=18.4,
        reference_mean_words=17.4,
        systems=found,
        best="blip-finetuned",
        decision=decide(found, [comparison(0.002)], 17.4),
    )


def test_the_best_main_system_is_chosen_and_compared_with_the_second() -> None:
    lines = decide(systems(), [comparison(0.002)], 17.4)
    assert in_order(
        lines[0],
        *("blip-finetuned", "CIDEr-D", "6.900 [6.800, 7.000]", "70.0 s"),
        *("3.300", "blip-calibrated", "p = 0.002"),
    )
    assert in_order(lines[1], "17.4 words", "blip-finetuned", "17.1", "blip-pretrained", "7.8")


def test_a_difference_that_may_be_chance_is_called_so() -> None:
    sure, unsure = (decide(systems(), [comparison(p)], 17.4)[0] for p in (0.002, 0.4))
    assert "p = 0.400" in unsure
    assert unsure.replace("0.400", "0.002") != sure


def test_calibration_overfitting_augmentation_and_growth_have_their_lines() -> None:
    lines = decide(systems(), [], 17.4)
    for facts in (
        ("16.9", "17.4 words", "CIDEr-D 3.600", "+3.300"),
        ("hybrid", "validation", "1.200", "+0.300", "epoch 4"),
        ("hybrid", "+0.100 CIDEr-D", "-0.200"),
        ("hybrid", "25%", "100%", "CIDEr-D", "+0.800"),
        ("blip-finetuned", "validation"),
    ):
        assert any(in_order(line, *facts) for line in lines), facts
    assert [line for line in lines if "25%" in line and "blip-finetuned" in line] == []


def test_a_system_with_one_caption_for_all_images_is_named() -> None:
    found = systems()
    found[0] = replace(found[0], scores=found[0].scores | {"different_captions": Score(value=1.0)})
    found[1] = replace(found[1], scores=found[1].scores | {"different_captions": Score(value=2.0)})

    (line,) = set(decide(found, [], 17.4)) - set(decide(systems(), [], 17.4))
    assert in_order(line, found[0].name)
    assert found[1].name not in line


def test_nothing_is_concluded_without_scores() -> None:
    waiting = [SystemRecord(name="hybrid", role="hybrid", is_main=True)]
    assert pick_best(waiting) is None
    assert len(decide(waiting, [], 17.4)) == 1


def test_a_smaller_subset_is_never_the_best() -> None:
    found = [replace(it, scores=scores(99.0, 17.0)) if not it.is_main else it for it in systems()]
    best = pick_best(found)
    assert best is not None
    assert best.name == "blip-finetuned"


def test_the_summary_has_the_table_the_others_and_the_failed() -> None:
    found = systems()
    found[0] = replace(found[0], status=Status.FAILED, reason="no memory", training=None, scores={})
    text = summarise(study(found))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4 + 2 + 2 + 2
    assert (
        "| blip-finetuned | 17.1 | -0.30 [-1.00, +1.00] | 6.900 [6.800, 7.000] | 0.250 | +0.100 | "
        "1,000 | 70.0 s | 50.0 training, 0.0 captioning | 1,024 MB |"
    ) in rows
    assert "| hybrid | - | - | - | - | - | - | - | - | - |" in rows
    assert "- hybrid: no memory" in text
    assert sum(line.startswith("## ") for line in text.splitlines()) == 4


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert SYSTEMS.read_ended(store, ["hybrid"]) == {}
    for system in systems():
        SYSTEMS.write(store, system)
        assert SYSTEMS.read_ended(store, [system.name]) == {system.name: system}
    write_study(store, study(systems()))
    assert read_study(store) == study(systems())


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("systems/hybrid/system.json", b'{"name": "hybrid"}')
    with pytest.raises(DatasetError, match="role") as caught:
        SYSTEMS.read_ended(store, ["hybrid"])
    assert caught.value.uri == store.address("systems/hybrid/system.json")
