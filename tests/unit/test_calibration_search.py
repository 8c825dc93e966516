"""Which settings calibration tries, and which it chooses."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from raycap.calibration.search import Trial, choose, frontier, settings_to_try
from raycap.config import CalibrateConfig, GenerationConfig


def trial(cider_d: float, length_gap: float) -> Trial:
    return Trial(
        generation=GenerationConfig(),
        cider_d=cider_d,
        bleu_4=0.0,
        mean_length=10 + length_gap,
        length_gap=length_gap,
    )


TRIALS = st.lists(
    st.builds(trial, st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([-5.0, -1.0, 0.0, 2.0])),
    min_size=1,
)


def test_the_first_setting_is_the_one_to_start_from_and_none_comes_twice() -> None:
    config = CalibrateConfig()
    found = settings_to_try(config, 17.4)
    assert found[0] == config.generation
    assert all(a != b for a, b in itertools.combinations(found, 2))
    assert len(found) == 1 + 5 * 3 * 2
    assert {setting.min_new_tokens for setting in found} == {0, 4, 9, 13, 17}
    assert {setting.max_new_tokens for setting in found[1:]} == {26}


def test_greedy_search_has_no_length_penalty_to_try() -> None:
    found = settings_to_try(CalibrateConfig(generation=GenerationConfig(num_beams=1)), 8.0)
    assert {setting.length_penalty for setting in found} == {1.0}
    assert len(found) == 5 * 2  # one of them is the start itself


def test_a_closer_length_that_costs_cider_is_not_chosen_unless_allowed() -> None:
    trials = [trial(1.0, -9.0), trial(1.1, -4.0), trial(0.9, 0.0)]
    assert choose(trials, 0.0) is trials[1]
    assert choose(trials, 0.2) is trials[2]


@given(TRIALS)
def test_the_choice_is_never_worse_than_the_start(trials: list[Trial]) -> None:
    chosen = choose(trials, 0.0)
    assert chosen.cider_d >= trials[0].cider_d
    assert abs(chosen.length_gap) <= abs(trials[0].length_gap)


@given(TRIALS)
def test_the_frontier_is_what_no_other_setting_beats_in_both(trials: list[Trial]) -> None:
    def beats(a: Trial, b: Trial) -> bool:
        no_worse = a.cider_d >= b.cider_d and abs(a.length_gap) <= abs(b.length_gap)
        return no_worse and (a.cider_d, abs(a.length_gap)) != (b.cider_d, abs(b.length_gap))

    expected = {
        (t.cider_d, abs(t.length_gap))
        for t in trials
        if not any(beats(other, t) for other in trials)
    }
    found = frontier(trials)
    assert {(t.cider_d, abs(t.length_gap)) for t in found} == expected
    assert len(found) == len(expected)
