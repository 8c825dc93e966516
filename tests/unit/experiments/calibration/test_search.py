"""The settings that calibration tries, and the one it chooses."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raycap.config import CalibrateConfig, GenerationConfig
from raycap.config.loading import validate_config
from raycap.experiments.calibration.search import choose, next_wave
from raycap.results.calibration import ReferenceLengths, ScoredSetting, frontier

Say = Callable[[GenerationConfig], ScoredSetting]
REFERENCES = ReferenceLengths(metric_tokens=16.0, model_tokens=20.0)


def config(**sections: Any) -> CalibrateConfig:
    return validate_config(CalibrateConfig, sections)


def trial(
    cider_d: float,
    length_gap: float,
    generation: GenerationConfig | None = None,
    longest_repeat: int = 9,
) -> ScoredSetting:
    return ScoredSetting(
        generation=generation or GenerationConfig(),
        cider_d=cider_d,
        bleu_4=0.0,
        mean_length=REFERENCES.metric_tokens + length_gap,
        length_gap=length_gap,
        repetition=0.0,
        longest_repeat=longest_repeat,
    )


def searched(settings: CalibrateConfig, say: Say) -> list[ScoredSetting]:
    """Run the whole search with a model whose captions score as `say` returns."""
    trials: list[ScoredSetting] = []
    told: list[int] = []
    while (wave := next_wave(settings, REFERENCES, trials)).settings:
        told.append(len(trials) + len(wave.settings) + wave.most_later)
        trials += map(say, wave.settings)
    # What is told to come is never too little, but for a smaller max_new_tokens.
    usual = [each for each in trials if each.generation.max_new_tokens != 24]
    assert all(most >= len(usual) for most in told)
    assert told[-1] >= len(trials)
    return trials


def short_unless_told(generation: GenerationConfig) -> ScoredSetting:
    """Eight metric tokens, or as many as `min_new_tokens` (of which a metric token has 1.25)."""
    length = max(8.0, generation.min_new_tokens / 1.25)
    return trial(1.0 + length / 16, length - 16, generation)


def settings_of(trials: Sequence[ScoredSetting]) -> list[tuple[int, int, float, int]]:
    return [
        (g.min_new_tokens, g.max_new_tokens, g.length_penalty, g.no_repeat_ngram_size)
        for g in (each.generation for each in trials)
    ]


def test_the_start_comes_first_then_the_grid_and_no_setting_twice() -> None:
    settings = config()
    trials = searched(settings, short_unless_told)
    assert trials[0].generation == settings.generation
    found = settings_of(trials)
    assert len(set(found)) == len(found) == 1 + 5 * 3 * 2
    # From the length of the captions, 8 * 1.25 = 10 of the model's tokens, to that of references.
    assert {min_new for min_new, *_ in found} == {0, 12, 15, 18, 20}
    assert {max_new for _, max_new, *_ in found[1:]} == {30}
    assert {(penalty, size) for *_, penalty, size in found[1:]} == {
        (penalty, size) for penalty in (0.0, 1.0, 2.0) for size in (0, 3)
    }


def test_greedy_search_has_no_length_penalty_to_try() -> None:
    trials = searched(config(generation={"num_beams": 1}), short_unless_told)
    assert {each.generation.length_penalty for each in trials} == {1.0}
    assert len(trials) == 1 + 5 * 2


def test_a_line_ends_when_captions_are_long_enough() -> None:
    def say(generation: GenerationConfig) -> ScoredSetting:
        return trial(1.0, -8.0 if generation.min_new_tokens < 15 else 0.5, generation)

    trials = searched(config(search={"length_penalties": [1.0], "ngram_sizes": [0]}), say)
    assert [g.min_new_tokens for g in (each.generation for each in trials)] == [0, 0, 12, 15]


def test_a_line_ends_when_cider_is_too_low_and_still_falls() -> None:
    def say(generation: GenerationConfig) -> ScoredSetting:
        # 11 of the metric's tokens are 13.75 of the model's: the lengths lie from there to 20.
        worth = {0: 1.0, 15: 0.9, 17: 0.8, 18: 1.5, 20: 2.0}
        return trial(worth[generation.min_new_tokens], -5.0, generation)

    def tried(loss: float) -> list[int]:
        one_line = {"length_penalties": [1.0], "ngram_sizes": [0]}
        trials = searched(config(search=one_line, max_cider_loss=loss), say)
        return [each.generation.min_new_tokens for each in trials]

    assert tried(0.0) == [0, 0, 15]
    assert tried(0.15) == [0, 0, 15, 17]
    assert tried(0.5) == [0, 0, 15, 17, 18, 20]


def test_blocking_is_not_tried_when_nothing_repeats() -> None:
    def say(generation: GenerationConfig) -> ScoredSetting:
        repeat = 3 if generation.min_new_tokens == 18 else 2
        length = max(8.0, generation.min_new_tokens / 1.25)
        return trial(1.0, length - 16, generation, longest_repeat=repeat)

    trials = searched(config(search={"length_penalties": [1.0]}), say)
    blocked = [each for each in settings_of(trials) if each[3] == 3]
    assert blocked == [(18, 30, 1.0, 3)]


def test_a_smaller_maximum_is_tried_when_captions_are_too_long() -> None:
    def say(generation: GenerationConfig) -> ScoredSetting:
        return trial(1.0, generation.max_new_tokens / 1.25 - 16 - 1.5, generation)

    one_line = {"length_penalties": [1.0], "ngram_sizes": [0]}
    start = {"max_new_tokens": 30}
    trials = searched(config(generation=start, search=one_line), say)
    assert settings_of(trials) == [(0, 30, 1.0, 0), (0, 24, 1.0, 0)]


def test_reference_lengths_are_limited_to_what_settings_allow() -> None:
    long = ReferenceLengths(metric_tokens=400.0, model_tokens=600.0)
    first = trial(1.0, -380.0)
    wave = next_wave(config(), long, [first])
    assert {setting.max_new_tokens for setting in wave.settings} == {500}


def test_a_closer_length_that_costs_cider_is_not_chosen_unless_allowed() -> None:
    trials = [trial(1.0, -9.0), trial(1.1, -4.0), trial(0.9, 0.0)]
    assert choose(trials, config()) is trials[1]
    assert choose(trials, config(max_cider_loss=0.2)) is trials[2]


def test_among_closed_gaps_the_best_cider_is_chosen() -> None:
    trials = [trial(1.0, -9.0), trial(2.0, 0.0), trial(3.0, -0.8), trial(4.0, 1.1)]
    assert choose(trials, config()) is trials[2]
    assert choose(trials, config(closed_gap=0.0)) is trials[1]


TRIALS = st.lists(
    st.builds(trial, st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([-5.0, -1.0, 0.0, 2.0])),
    min_size=1,
)


@given(TRIALS, st.sampled_from([0.0, 0.1, 0.5]))
def test_the_choice_never_loses_more_cider_than_allowed_nor_widens_the_gap(
    trials: list[ScoredSetting], loss: float
) -> None:
    chosen = choose(trials, config(max_cider_loss=loss, closed_gap=0.5))
    assert chosen.cider_d >= (1 - loss) * trials[0].cider_d
    assert abs(chosen.length_gap) <= max(0.5, abs(trials[0].length_gap))


@given(TRIALS)
def test_no_setting_beats_one_of_the_frontier_in_both_scores(trials: list[ScoredSetting]) -> None:
    def beats(a: ScoredSetting, b: ScoredSetting) -> bool:
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
