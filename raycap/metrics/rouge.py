"""ROUGE-L: the longest common subsequence of caption and reference.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3; as
computed by coco-caption: the best precision and the best recall, possibly of two references.
"""

from collections.abc import Sequence

from raycap.metrics.ngrams import Sentences

_BETA_SQUARED = 1.2**2


def score_rouge_l(hypothesis: Sequence[str], references: Sentences) -> float:
    """Score one image; the corpus's score is the mean over images."""
    places: dict[str, int] = {}
    for place, token in enumerate(hypothesis):
        places[token] = places.get(token, 0) | 1 << place
    common = [_common(places, len(hypothesis), reference) for reference in references]
    most = max(common)
    if not most:
        return 0.0
    precision = most / len(hypothesis)
    recall = max(
        num_common / len(reference)
        for num_common, reference in zip(common, references, strict=True)
        if reference
    )
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def _common(places: dict[str, int], length: int, reference: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    One bit per token of the hypothesis, so that a row of the usual table is one number.
    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    Args:
        places: for each token of the hypothesis, the bits of its positions.
        length: length of the hypothesis.
        reference: the other sequence.
    """
    all_bits = (1 << length) - 1
    row = all_bits
    for token in reference:
        if token in places:
            matches = row & places[token]
            row = (row + matches | row - matches) & all_bits
    return length - row.bit_count()
