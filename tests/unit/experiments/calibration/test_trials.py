"""The trials of a calibration: their file, and the scores of a setting's captions."""

from pathlib import Path

import pytest

from raycap.config import GenerationConfig
from raycap.errors import DatasetError, RunConflict
from raycap.experiments.calibration.trials import ScoredReferences, TrialLog, score_trial
from raycap.metrics.tokenizer import tokenize
from raycap.results.calibration import TRIALS, ReferenceLengths, ScoredSetting, SliceRecord

FINGERPRINT = {"split": "validation", "model": {"digest": "d1"}}
IMAGES = SliceRecord(
    num_images=3,
    num_unreadable=1,
    digest="ab",
    num_references=6,
    lengths=ReferenceLengths(metric_tokens=17.4, model_tokens=19.25),
)
REFERENCES = [
    ["a dog runs on the beach", "the dog is running on sand"],
    ["two cats sleep on a sofa"],
    ["a red car is parked near the old bridge"],
]


def trial(min_new: int, cider_d: float = 1 / 3) -> ScoredSetting:
    return ScoredSetting(
        generation=GenerationConfig(min_new_tokens=min_new, prompt="ein Bäcker"),
        cider_d=cider_d,
        bleu_4=0.1,
        mean_length=8.0,
        length_gap=-9.4,
        repetition=0.25,
        longest_repeat=2,
        num_failed=1,
    )


def filled(folder: Path) -> TrialLog:
    log = TrialLog(folder)
    log.claim(FINGERPRINT)
    log.start(IMAGES)
    log.add(trial(0))
    log.add(trial(9, 2 / 3))
    return log


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    log = filled(tmp_path)
    again = TrialLog(tmp_path)
    assert again.trials == log.trials == [trial(0), trial(9, 2 / 3)]
    assert again.slice == IMAGES
    assert again.fingerprint == FINGERPRINT


def test_a_line_cut_short_by_a_kill_is_dropped_and_overwritten(tmp_path: Path) -> None:
    filled(tmp_path)
    whole = (tmp_path / TRIALS).read_bytes()
    (tmp_path / TRIALS).write_bytes(whole[:-20])
    again = TrialLog(tmp_path)
    assert again.trials == [trial(0)]
    again.add(trial(9, 2 / 3))
    assert (tmp_path / TRIALS).read_bytes() == whole


def test_a_first_line_cut_short_by_a_kill_is_written_again(tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_bytes(b'{"finger')
    assert TrialLog(tmp_path).trials == []
    assert filled(tmp_path).slice == IMAGES


def test_trials_on_other_images_are_not_mixed(tmp_path: Path) -> None:
    filled(tmp_path)
    other = SliceRecord(
        num_images=2, num_unreadable=2, digest="cd", num_references=4, lengths=IMAGES.lengths
    )
    with pytest.raises(RunConflict, match=r"\b3 images .*\b2 ") as caught:
        TrialLog(tmp_path).start(other)
    assert caught.value.uri == str(tmp_path)


@pytest.mark.parametrize("line", ["no json", '{"trial": {"cider_d": "high"}}'])
def test_a_damaged_log_is_one_clear_line(line: str, tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / TRIALS).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError) as caught:
        TrialLog(tmp_path)
    assert caught.value.uri == str(tmp_path / TRIALS)
    assert "\n" not in str(caught.value)


def test_captions_are_scored_against_their_images_references() -> None:
    references = ScoredReferences.of(REFERENCES)
    assert references.mean_length == pytest.approx((6 + 6 + 6 + 9) / 4)
    perfect = score_trial(GenerationConfig(), [image[0] for image in REFERENCES], references)
    shifted = score_trial(GenerationConfig(), [REFERENCES[i][0] for i in (1, 2, 0)], references)
    assert perfect.bleu_4 == pytest.approx(1.0)
    assert perfect.cider_d > 5 > shifted.cider_d
    assert perfect.length_gap == pytest.approx(7 - 6.75)


def test_an_image_that_the_model_fails_on_scores_nothing_and_is_counted() -> None:
    references = ScoredReferences.of(REFERENCES)
    first = [image[0] for image in REFERENCES]
    whole = score_trial(GenerationConfig(), first, references)
    failed = score_trial(GenerationConfig(), [first[0], None, first[2]], references)
    assert failed.num_failed == 1
    assert 0 < failed.cider_d < whole.cider_d
    assert failed.mean_length == pytest.approx((6 + 9) / 3)


@pytest.mark.parametrize(
    ("caption", "length"),
    [
        ("", 0),
        ("a dog", 0),
        ("a dog and a cat", 1),
        ("a red dog sees a red cat", 2),
        ("on a plain background a dog on a plain background", 4),
        ("no no no no", 3),  # which overlaps itself
    ],
)
def test_the_longest_run_that_occurs_twice_is_found(caption: str, length: int) -> None:
    found = score_trial(GenerationConfig(), [caption, "x", "y"], ScoredReferences.of(REFERENCES))
    assert found.longest_repeat == length
    assert len(tokenize(caption)) == len(caption.split())
