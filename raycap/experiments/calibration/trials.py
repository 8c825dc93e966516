"""Trials of a calibration: the scores of a setting's captions, and the file that keeps them.

The first line of `trials.jsonl` is the fingerprint, the second describes the images, each other
line is a trial. A run that was killed continues with the trials that are left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig
from raycap.errors import RunConflict
from raycap.experiments.journal import LineJournal
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.diversity import count_diversity
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.lengths import count_lengths, mean_length
from raycap.metrics.ngrams import Sentences
from raycap.metrics.scores import mean, score_images
from raycap.metrics.tokenizer import tokenize
from raycap.results.calibration import TRIALS, ScoredSetting, SliceRecord

REMEDY = "finished settings are kept: run the same command to continue"

_SLICE, _TRIAL = "slice", "trial"


_FORMS = {_SLICE: SliceRecord, _TRIAL: ScoredSetting}


class TrialLog:
    """The trials of a calibration: those in its folder, and those added since."""

    def __init__(self, folder: Path, guard: Callable[[], None] = lambda: None) -> None:
        """Read the folder's trials.

        Args:
            folder: of the calibration.
            guard: called before each write; raises if another writer has taken over the folder.

        Raises:
            DatasetError: the file is damaged.
        """
        self._path = folder / TRIALS
        self._journal = LineJournal(self._path, _FORMS)
        self._journal.guard = guard

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """The fingerprint of the calibration; None in an empty log."""
        return self._journal.fingerprint

    @property
    def slice(self) -> SliceRecord | None:
        """The images of the trials; None before the first."""
        return next(iter(self._journal.entries(_SLICE)), None)

    @property
    def trials(self) -> list[ScoredSetting]:
        """All trials, in order."""
        return self._journal.entries(_TRIAL)

    def claim(self, fingerprint: dict[str, Any]) -> None:
        """Write the fingerprint, the first line of an empty log."""
        self._journal.claim(fingerprint)

    def start(self, images: SliceRecord) -> None:
        """Record the images that settings are tried on.

        Raises:
            RunConflict: the trials so far used other images.
        """
        if self.slice is None:
            self._journal.add(_SLICE, images)
        elif self.slice.digest != images.digest:
            raise RunConflict(
                f"{self._path}: its trials used {self.slice.num_images} images of the split, of "
                f"which {images.num_images} can be read now; restore the images, or give another "
                "output",
                uri=str(self._path.parent),
            )

    def add(self, trial: ScoredSetting) -> None:
        """Append a trial."""
        self._journal.add(_TRIAL, trial)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredReferences:
    """The references of some images, tokenized for scoring."""

    tokens: Sequence[Sentences]
    frequencies: DocumentFrequencies
    """Document frequencies of all references."""
    mean_length: float

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> "ScoredReferences":
        """Tokenize each image's captions."""
        tokens = [[tokenize(text) for text in image] for image in captions]
        return cls(
            tokens=tokens,
            frequencies=DocumentFrequencies.of(tokens),
            mean_length=mean_length(count_lengths(chain.from_iterable(tokens))),
        )


def score_trial(
    generation: GenerationConfig, captions: Sequence[str | None], references: ScoredReferences
) -> ScoredSetting:
    """Score the captions of a setting.

    Args:
        generation: the setting.
        captions: one per image, in order; None where the model failed.
        references: the references of the same images.
    """
    tokens = [tokenize(caption or "") for caption in captions]
    scores = score_images(tokens, references.tokens, references.frequencies)
    length = mean_length(count_lengths(tokens))
    return ScoredSetting(
        generation=generation,
        cider_d=mean(scores.cider_d),
        bleu_4=float(corpus_bleu(scores.bleu_counts.sum(axis=0))[3]),
        mean_length=length,
        length_gap=length - references.mean_length,
        repetition=count_diversity(tokens).repetition,
        longest_repeat=max(map(_longest_repeat, tokens)),
        num_failed=sum(caption is None for caption in captions),
    )


def _longest_repeat(tokens: Sequence[str]) -> int:
    """Return the length of the longest run that occurs twice, overlapping or not."""
    length = 0
    while _occurs_twice(tokens, length + 1):
        length += 1
    return length


def _occurs_twice(tokens: Sequence[str], length: int) -> bool:
    runs = [tuple(tokens[at : at + length]) for at in range(len(tokens) - length + 1)]
    return len(set(runs)) < len(runs)
