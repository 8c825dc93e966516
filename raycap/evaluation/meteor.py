"""METEOR 1.5: words aligned exactly, by stem, by synonym and by paraphrase.

The alignments are the published program's; its formula is computed here from their counts, so that
a corpus, an image and a resample are one and the same sum.

Source: Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation for
Any Target Language", with the parameters for English; run as coco-caption runs it.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from raycap.evaluation.java import JavaError, JavaProcess, find_javas, require, why_missing

NUM_STATISTICS = 23
"""Counts that the program gives of an image: lengths of caption and reference, function words of
both; of each of four kinds of match the content words of both and the function words of both;
chunks; matched words of both."""

_JAR = "meteor/meteor-1.5.jar"
_PARAPHRASES = "meteor/data/paraphrase-en.gz"
_CHUNK_IMAGES = 2_000
_NUM_LENGTHS = 4
_CHUNKS, _MATCHED = 20, slice(21, 23)

# For English, tuned to rankings by people.
_RECALL_WEIGHT = 0.85  # alpha
_FRAGMENTATION_POWER = 0.20  # beta
_FRAGMENTATION_WEIGHT = 0.60  # gamma
_CONTENT_WEIGHT = 0.75  # delta
_MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase

_LINE_ENDS = re.compile("[\n\r]")
_SEPARATORS = re.compile(r"\|{3,}")


def meteor_missing() -> str | None:
    """Say why METEOR cannot run here; None if it can."""
    return why_missing("METEOR", _JAR, _PARAPHRASES)


class Meteor:
    """Aligns captions with references in one Java process, which ends with the block.

    It takes some seconds to start, and up to 2 GB of memory.
    """

    def __enter__(self) -> "Meteor":
        arguments = _arguments()
        self._process = JavaProcess("METEOR", find_javas()[0], arguments)
        self._process.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)

    def statistics(
        self, hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
    ) -> Float64[np.ndarray, "n 23"]:
        """Count what `corpus_meteor` needs of each image, for its best reference.

        Rows add up: the sum over images is the corpus's. An image whose caption equals a reference
        has no chunks, as the program's own sum leaves them out.

        Args:
            hypotheses: Tokens of each image's caption.
            references: Tokens of each reference of each image, one or more an image.

        Raises:
            JavaError: the program ended, or refuses its input.
        """
        counts = np.empty((len(hypotheses), NUM_STATISTICS))
        for start in range(0, len(hypotheses), _CHUNK_IMAGES):
            rows = slice(start, start + _CHUNK_IMAGES)
            pairs = zip(hypotheses[rows], references[rows], strict=True)
            text = "".join(_score_line(hypothesis, others) for hypothesis, others in pairs)
            counts[rows] = _numbers(self._process.exchange(text, len(counts[rows])))
        counts[_is_equal(counts), _CHUNKS] = 0.0
        return counts

    def score(
        self, hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
    ) -> Float64[np.ndarray, " n"]:
        """Score each image by itself. A corpus's score is not the mean of these.

        Args:
            hypotheses: As of `statistics`.
            references: As of `statistics`.

        Raises:
            JavaError: as of `statistics`.
        """
        return corpus_meteor(self.statistics(hypotheses, references))


def corpus_meteor(statistics: Float64[np.ndarray, "*batch 23"]) -> Float64[np.ndarray, "*batch"]:
    """Compute METEOR from the sums of images' statistics; from a single image's, its own score.

    Where no word matches, the score is 0.
    """
    lengths, function_words = statistics[..., 0:2], statistics[..., 2:4]
    matches = statistics[..., _NUM_LENGTHS:_CHUNKS]
    matches = matches.reshape(*statistics.shape[:-1], len(_MATCH_WEIGHTS), 2, 2)
    content, function = np.moveaxis(np.moveaxis(matches, -3, -1) @ _MATCH_WEIGHTS, -2, 0)
    weighted = _CONTENT_WEIGHT * content + (1 - _CONTENT_WEIGHT) * function
    totals = _CONTENT_WEIGHT * (lengths - function_words) + (1 - _CONTENT_WEIGHT) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted / totals, -1, 0)
        mean = 1 / ((1 - _RECALL_WEIGHT) / precision + _RECALL_WEIGHT / recall)
        fragmentation = statistics[..., _CHUNKS] / statistics[..., _MATCHED].mean(axis=-1)
        penalty = _FRAGMENTATION_WEIGHT * fragmentation**_FRAGMENTATION_POWER
        score = mean * (1 - penalty)
    return np.asarray(np.maximum(np.nan_to_num(score), 0.0))


def _arguments() -> list[str]:
    jar, paraphrases = require("METEOR", _JAR), require("METEOR", _PARAPHRASES)
    # The paraphrases are named, as by itself the program does not find them where the path holds a
    # space or more than ASCII.
    options = ["-", "-", "-stdio", "-l", "en", "-norm", "-a", str(paraphrases)]
    return ["-Xmx2G", "-jar", str(jar), *options]


def _score_line(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> str:
    texts = [_text(tokens) for tokens in (*references, hypothesis)]
    return f"SCORE ||| {' ||| '.join(texts)}\n"


def _text(tokens: Sequence[str]) -> str:
    """Join tokens into a text that cannot end a line or a field."""
    return _SEPARATORS.sub("", _LINE_ENDS.sub(" ", " ".join(tokens)))


def _numbers(lines: list[str]) -> Float64[np.ndarray, "n 23"]:
    try:
        return np.array([line.split() for line in lines], dtype=np.float64).reshape(-1, 23)
    except ValueError as error:
        wrong = next((line for line in lines if line.startswith("Error")), lines[0])
        raise JavaError(f"METEOR does not answer with numbers: {wrong[:200]}") from error


def _is_equal(counts: Float64[np.ndarray, "n 23"]) -> np.ndarray:
    """Find the images of which every word of caption and reference matches, in one chunk."""
    matches = counts[:, _NUM_LENGTHS:_CHUNKS]
    all_match = (matches[:, 0::2].sum(axis=1) == counts[:, 0]) & (
        matches[:, 1::2].sum(axis=1) == counts[:, 1]
    )
    return np.asarray(all_match & (counts[:, _CHUNKS] == 1))
