"""Which settings to try next, and which to choose: pure functions of the trials so far.

Settings lie on lines. A line has one length penalty and one size of blocked n-grams, and
`min_new_tokens` rises along it. It ends early when rising further cannot help: when the captions
are long enough, or have lost more CIDEr-D than allowed and continue to lose.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from raycap.config import CalibrateConfig, GenerationConfig
from raycap.results.calibration import ReferenceLengths, ScoredSetting

_MOST_TOKENS = 500  # maximum that the settings allow


@dataclass(slots=True)
class Wave:
    """Settings to try next, and how many more may follow."""

    settings: list[GenerationConfig] = field(default_factory=list)
    most_later: int = 0
    """Maximum number in later waves, not counting those with a smaller `max_new_tokens`."""


def next_wave(
    config: CalibrateConfig, lengths: ReferenceLengths, trials: Sequence[ScoredSetting]
) -> Wave:
    """Return the settings to try next: first the start, then no setting twice.

    Settings that can hardly differ are left out: blocked n-grams longer than any that a caption
    repeats without blocking, and a smaller `max_new_tokens` when captions are not too long.

    Args:
        config: the settings to vary; its `generation` is the start.
        lengths: mean lengths of the references.
        trials: all trials so far, the start first.

    Returns:
        The next wave; one without settings when the search is finished.
    """
    if not trials:
        return Wave([config.generation], _most(config))
    search = _Search(config, lengths, trials)
    wave = Wave()
    for penalty in _penalties(config):
        search.extend(wave, penalty)
    wave.settings = list(dict.fromkeys(wave.settings))
    return wave


def choose(trials: Sequence[ScoredSetting], config: CalibrateConfig) -> ScoredSetting:
    """Choose the smallest length gap among the trials that keep the CIDEr-D of the first.

    All gaps within `closed_gap` count as equal. Equal gaps are decided by CIDEr-D, equal scores by
    order. The first trial always qualifies.
    """
    bar = _bar(trials, config)
    kept = [trial for trial in trials if trial.cider_d >= bar]
    return min(
        kept, key=lambda trial: (max(abs(trial.length_gap), config.closed_gap), -trial.cider_d)
    )


class _Search:
    """The trials so far, and the lines of settings."""

    def __init__(
        self, config: CalibrateConfig, lengths: ReferenceLengths, trials: Sequence[ScoredSetting]
    ) -> None:
        self._start = config.generation
        self._sizes = config.search.ngram_sizes
        self._closed_gap = config.closed_gap
        self._bar = _bar(trials, config)
        self._known = {trial.generation: trial for trial in trials}
        wanted = lengths.model_tokens
        per_token = wanted / lengths.metric_tokens
        self._min_lengths = _min_lengths(
            trials[0].mean_length * per_token, wanted, config.search.num_min_lengths
        )
        longest, *shorter = sorted(
            {_tokens(wanted * ratio) for ratio in config.search.max_length_ratios}, reverse=True
        )
        self._longest = max(longest, self._start.max_new_tokens)
        self._shorter = shorter

    def extend(self, wave: Wave, penalty: float) -> None:
        """Add the next settings of all lines with a length penalty."""
        first, *others = self._sizes
        goes_on = self._climb(wave, penalty, first, waits=False)
        for size in others:
            self._climb(wave, penalty, size, waits=goes_on)

    def _climb(self, wave: Wave, penalty: float, size: int, *, waits: bool) -> bool:
        """Add the next setting of one line; return whether the line continues.

        Args:
            wave: the wave to add to.
            penalty: the line's length penalty.
            size: its size of blocked n-grams.
            waits: whether the line of the first size has not ended yet: its results decide
                whether this line could differ at all.
        """
        before: ScoredSetting | None = None
        for number, min_new in enumerate(self._min_lengths):
            trial = self._known.get(self._setting(min_new, penalty, size))
            if trial is None and size != self._sizes[0]:
                trial = self._stand_in(min_new, penalty, size)
                if trial is None and waits and self._first(min_new, penalty) is None:
                    wave.most_later += len(self._min_lengths) - number
                    return True
            if trial is None:
                wave.settings.append(self._setting(min_new, penalty, size))
                wave.most_later += len(self._min_lengths) - number - 1
                return True
            self._shorten(wave, trial)
            if self._ends(trial, before):
                return False
            before = trial
        return False

    def _first(self, min_new: int, penalty: float) -> ScoredSetting | None:
        return self._known.get(self._setting(min_new, penalty, self._sizes[0]))

    def _stand_in(self, min_new: int, penalty: float, size: int) -> ScoredSetting | None:
        """Return the trial with the first size of n-grams, if this size would change nothing."""
        trial = self._first(min_new, penalty)
        return trial if trial is not None and trial.longest_repeat < size else None

    def _shorten(self, wave: Wave, trial: ScoredSetting) -> None:
        """Add the same setting with a smaller `max_new_tokens`, if its captions are too long."""
        if trial.length_gap <= self._closed_gap:
            return
        for max_new in self._shorter:
            if max_new >= trial.generation.min_new_tokens:
                setting = _varied(trial.generation, max_new_tokens=max_new)
                if setting not in self._known:
                    wave.settings.append(setting)

    def _ends(self, trial: ScoredSetting, before: ScoredSetting | None) -> bool:
        loses = before is not None and trial.cider_d < before.cider_d
        return trial.length_gap >= 0 or (loses and trial.cider_d < self._bar)

    def _setting(self, min_new: int, penalty: float, size: int) -> GenerationConfig:
        return _varied(
            self._start,
            min_new_tokens=min_new,
            max_new_tokens=self._longest,
            length_penalty=penalty,
            no_repeat_ngram_size=size,
        )


def _bar(trials: Sequence[ScoredSetting], config: CalibrateConfig) -> float:
    return trials[0].cider_d * (1.0 - config.max_cider_loss)


def _penalties(config: CalibrateConfig) -> tuple[float, ...]:
    start = config.generation
    return config.search.length_penalties if start.num_beams > 1 else (start.length_penalty,)


def _most(config: CalibrateConfig) -> int:
    search = config.search
    return search.num_min_lengths * len(_penalties(config)) * len(search.ngram_sizes)


def _min_lengths(start: float, wanted: float, count: int) -> list[int]:
    """List 0, then lengths from that of the captions to that of the references."""
    steps = range(1, count)
    between = [start + (wanted - start) * step / (count - 1) for step in steps]
    return [0, *sorted({_tokens(length) for length in between if wanted > start})]


def _tokens(length: float) -> int:
    return min(_MOST_TOKENS, max(1, round(length)))


def _varied(generation: GenerationConfig, **changed: int | float) -> GenerationConfig:
    return GenerationConfig.model_validate({**generation.model_dump(), **changed})
