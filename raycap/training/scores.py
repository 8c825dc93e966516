"""Scores of the captions of the validation sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from raycap.metrics.bleu import corpus_bleu
from raycap.metrics.frequencies import DocumentFrequencies
from raycap.metrics.lengths import count_lengths, mean_length
from raycap.metrics.scores import mean, score_images
from raycap.metrics.tokenizer import tokenize
from raycap.results.labels import LENGTH_GAP, MEAN_TOKENS, REFERENCE_MEAN_TOKENS
from raycap.schema import BLEU, CIDER_D, ROUGE_L


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The model's caption of an image, and its references."""

    image_id: str
    caption: str
    references: list[str]


def score(answers: Sequence[Answer]) -> dict[str, float]:
    """Score captions by BLEU, ROUGE-L, CIDEr-D and their length in tokens.

    CIDEr-D takes its document frequencies from these references. The length gap is the mean length
    of the captions minus that of the references: negative means too short.

    Raises:
        ValueError: there are no captions.
    """
    captions = [tokenize(answer.caption) for answer in answers]
    references = [[tokenize(text) for text in answer.references] for answer in answers]
    found = score_images(captions, references, DocumentFrequencies.of(references))
    bleu = corpus_bleu(found.bleu_counts.sum(axis=0))
    length = mean_length(count_lengths(captions))
    wanted = mean_length(count_lengths(chain.from_iterable(references)))
    return {
        **dict(zip(BLEU, bleu.tolist(), strict=True)),
        ROUGE_L: mean(found.rouge_l),
        CIDER_D: mean(found.cider_d),
        MEAN_TOKENS: length,
        REFERENCE_MEAN_TOKENS: wanted,
        LENGTH_GAP: length - wanted,
    }
