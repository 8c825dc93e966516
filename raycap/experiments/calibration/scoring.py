"""What the captions of one setting are worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from raycap.config import GenerationConfig
from raycap.experiments.calibration.search import Trial
from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.diversity import count_diversity
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.lengths import count_lengths, mean_length
from raycap.metrics.ngrams import Sentences
from raycap.metrics.scores import mean, score_images
from raycap.metrics.tokenizer import tokenize


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredReferences:
    """The references of some images, ready to score captions by."""

    tokens: Sequence[Sentences]
    frequencies: DocumentFrequencies
    """Of all these images."""
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
) -> Trial:
    """Score the captions of a setting.

    Args:
        generation: The setting.
        captions: One an image, in their order; None where the model failed.
        references: Of the same images.
    """
    tokens = [tokenize(caption or "") for caption in captions]
    scores = score_images(tokens, references.tokens, references.frequencies)
    length = mean_length(count_lengths(tokens))
    return Trial(
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
    """Find the length of the longest run that stands twice, overlapping or not."""
    length = 0
    while _stands_twice(tokens, length + 1):
        length += 1
    return length


def _stands_twice(tokens: Sequence[str], length: int) -> bool:
    runs = [tuple(tokens[at : at + length]) for at in range(len(tokens) - length + 1)]
    return len(set(runs)) < len(runs)
