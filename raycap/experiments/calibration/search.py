"""Which settings to try next, and which of them to choose: pure functions of what was tried.

A line of settings has one length penalty and one size of blocked n-grams; along it
`min_new_tokens` rises. It ends early where rising further cannot help: where the captions are long
enough already, or have lost more CIDEr-D than is allowed and go on losing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from raycap.config import CalibrateConfig, GenerationConfig

_MOST_TOKENS = 500  # that the settings allow
_CHANGED = ("min_new_tokens", "max_new_tokens", "length_penalty", "no_repeat_ngram_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting, and what its captions are worth. Lengths are in tokens of the metrics."""

    generation: GenerationConfig
    cider_d: float
    bleu_4: float
    mean_length: float
    """Of the captions."""
    length_gap: float
    """The same less that of the references: negative means too short."""
    repetition: float
    """Share of captions in which a run of up to four tokens follows itself at once."""
    longest_repeat: int
    """Tokens of the longest run that stands twice in a caption."""
    num_failed: int = 0
    """Images that the model could not caption; they score 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLengths:
    """Mean length of the references."""

    metric_tokens: float
    """In tokens of the metrics."""
    model_tokens: float
    """In the model's own, which the settings count in."""


@dataclass(slots=True)
class Wave:
    """Settings to try next, side by side, and how many more there may be."""

    settings: list[GenerationConfig] = field(default_factory=list)
    most_later: int = 0
    """At most so many come in later waves, those with a smaller `max_new_tokens` not counted."""


def next_wave(config: CalibrateConfig, lengths: ReferenceLengths, trials: Sequence[Trial]) -> Wave:
    """Say what to try next: the setting to start from first, then no setting twice.

    What is left out, because it can hardly differ: settings that block n-grams longer than any
    that stands twice in a caption without; and a smaller `max_new_tokens`, where captions are not
    too long.

    Args:
        config: what to vary; its `generation` is what to start from.
        lengths: of the references.
        trials: all so far, the start first.

    Returns:
        A wave without settings at the end.
    """
    if not trials:
        return Wave([config.generation], _most(config))
    search = _Search(config, lengths, trials)
    wave = Wave()
    for penalty in _penalties(config):
        search.extend(wave, penalty)
    wave.settings = list(dict.fromkeys(wave.settings))
    return wave


def choose(trials: Sequence[Trial], config: CalibrateConfig) -> Trial:
    """Choose the smallest length gap among the settings that keep the CIDEr-D of the first.

    All gaps within `closed_gap` are alike. Of equal gaps, the better CIDEr-D; of equal both, the
    earlier setting. The first itself always qualifies.
    """
    bar = _bar(trials, config)
    kept = [trial for trial in trials if trial.cider_d >= bar]
    return min(
        kept, key=lambda trial: (max(abs(trial.length_gap), config.closed_gap), -trial.cider_d)
    )


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Keep the settings that no other beats in both CIDEr-D and length gap, by their gap."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (abs(trial.length_gap), -trial.cider_d)):
        if not best or trial.cider_d > best[-1].cider_d:
            best.append(trial)
    return best


def changes(generation: GenerationConfig) -> dict[str, int | float]:
    """Give those settings that calibration varies."""
    return {name: getattr(generation, name) for name in _CHANGED}


class _Search:
    """What was tried, and the settings that lie on the lines."""

    def __init__(
        self, config: CalibrateConfig, lengths: ReferenceLengths, trials: Sequence[Trial]
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
        """Add what the lines of a length penalty want next."""
        first, *others = self._sizes
        goes_on = self._climb(wave, penalty, first, waits=False)
        for size in others:
            self._climb(wave, penalty, size, waits=goes_on)

    def _climb(self, wave: Wave, penalty: float, size: int, *, waits: bool) -> bool:
        """Add what one line wants next; say whether it goes on after that.

        Args:
            wave: What to add to.
            penalty: The line's length penalty.
            size: Its size of blocked n-grams.
            waits: Whether the line of the first size has not ended yet: it tells whether this
                one could differ at all.
        """
        before: Trial | None = None
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

    def _first(self, min_new: int, penalty: float) -> Trial | None:
        return self._known.get(self._setting(min_new, penalty, self._sizes[0]))

    def _stand_in(self, min_new: int, penalty: float, size: int) -> Trial | None:
        """Give the trial that blocks the first size of n-grams, if blocking more changes none."""
        trial = self._first(min_new, penalty)
        return trial if trial is not None and trial.longest_repeat < size else None

    def _shorten(self, wave: Wave, trial: Trial) -> None:
        """Want the same setting with a smaller `max_new_tokens`, if its captions are too long."""
        if trial.length_gap <= self._closed_gap:
            return
        for max_new in self._shorter:
            if max_new >= trial.generation.min_new_tokens:
                setting = _varied(trial.generation, max_new_tokens=max_new)
                if setting not in self._known:
                    wave.settings.append(setting)

    def _ends(self, trial: Trial, before: Trial | None) -> bool:
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


def _bar(trials: Sequence[Trial], config: CalibrateConfig) -> float:
    return trials[0].cider_d * (1.0 - config.max_cider_loss)


def _penalties(config: CalibrateConfig) -> tuple[float, ...]:
    start = config.generation
    return config.search.length_penalties if start.num_beams > 1 else (start.length_penalty,)


def _most(config: CalibrateConfig) -> int:
    search = config.search
    return search.num_min_lengths * len(_penalties(config)) * len(search.ngram_sizes)


def _min_lengths(start: float, wanted: float, count: int) -> list[int]:
    """List lengths from where the captions are to where the references are, after 0."""
    steps = range(1, count)
    between = [start + (wanted - start) * step / (count - 1) for step in steps]
    return [0, *sorted({_tokens(length) for length in between if wanted > start})]


def _tokens(length: float) -> int:
    return min(_MOST_TOKENS, max(1, round(length)))


def _varied(generation: GenerationConfig, **changed: int | float) -> GenerationConfig:
    return GenerationConfig.model_validate({**generation.model_dump(), **changed})
