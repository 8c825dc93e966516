"""METEOR 1.5: words aligned exactly, by stem, by synonym and by paraphrase.

The published program aligns the words; its formula is computed here from counts, which add up over
the images of a corpus or a resample.

Source: Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation for
Any Target Language", with the parameters for English; with the options of coco-caption.
"""

import re
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from jaxtyping import Float64

from raycap import schema
from raycap.config import ExternalMetricsConfig
from raycap.evaluation.java import JavaError, JavaProcess, find_javas, require, why_missing
from raycap.evaluation.metric import Metric, Score

NUM_STATISTICS = 23
"""Counts of the program per image: lengths of caption and reference, function words of both; for
each of four kinds of match, the content words of both and the function words of both; chunks;
matched words of both."""

_JAR = "meteor/meteor-1.5.jar"
_PARAPHRASES = "meteor/data/paraphrase-en.gz"
_CHUNK_IMAGES = 2_000
_NUM_LENGTHS = 4
_CHUNKS, _MATCHED = 20, slice(21, 23)

# For English, tuned to human rankings.
_RECALL_WEIGHT = 0.85  # alpha
_FRAGMENTATION_POWER = 0.20  # beta
_FRAGMENTATION_WEIGHT = 0.60  # gamma
_CONTENT_WEIGHT = 0.75  # delta
_MATCH_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase

_LINE_ENDS = re.compile("[\n\r]")
_SEPARATORS = re.compile(r"\|{3,}")


def meteor_missing() -> str | None:
    """Return why METEOR cannot run here, or None if it can."""
    return why_missing("METEOR", _JAR, _PARAPHRASES)


class Meteor:
    """The aligner in one Java process, which ends with the block.

    It takes some seconds to start, and uses up to 2 GB of memory.
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
        """Return the counts of each image for its best reference, as `corpus_meteor` needs them.

        The counts of a corpus are the sum over its images. An image whose caption equals a
        reference has no chunks: the program's own sum omits them.

        Args:
            hypotheses: tokens of each image's caption.
            references: tokens of each reference of each image, one or more per image.

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
        """Return the score of each image. A corpus's score is not the mean of these.

        Args:
            hypotheses: as for `statistics`.
            references: as for `statistics`.

        Raises:
            JavaError: as for `statistics`.
        """
        return corpus_meteor(self.statistics(hypotheses, references))


def corpus_meteor(statistics: Float64[np.ndarray, "*batch 23"]) -> Float64[np.ndarray, "*batch"]:
    """Compute METEOR from sums of images' statistics; from one image's statistics, its own score.

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
    # The file of paraphrases is given, because the program does not find it if the path contains a
    # space or is not ASCII.
    options = ["-", "-", "-stdio", "-l", "en", "-norm", "-a", str(paraphrases)]
    return ["-Xmx2G", "-jar", str(jar), *options]


def _score_line(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> str:
    texts = [_text(tokens) for tokens in (*references, hypothesis)]
    return f"SCORE ||| {' ||| '.join(texts)}\n"


def _text(tokens: Sequence[str]) -> str:
    """Join tokens into a text without ends of lines or fields."""
    return _SEPARATORS.sub("", _LINE_ENDS.sub(" ", " ".join(tokens)))


def _numbers(lines: list[str]) -> Float64[np.ndarray, "n 23"]:
    try:
        return np.array([line.split() for line in lines], dtype=np.float64).reshape(-1, 23)
    except ValueError as error:
        wrong = next((line for line in lines if line.startswith("Error")), lines[0])
        raise JavaError(f"METEOR does not answer with numbers: {wrong[:200]}") from error


def _is_equal(counts: Float64[np.ndarray, "n 23"]) -> np.ndarray:
    """Return the images where all words of caption and reference match, in one chunk."""
    matches = counts[:, _NUM_LENGTHS:_CHUNKS]
    all_match = (matches[:, 0::2].sum(axis=1) == counts[:, 0]) & (
        matches[:, 1::2].sum(axis=1) == counts[:, 1]
    )
    return np.asarray(all_match & (counts[:, _CHUNKS] == 1))


def _open(_: ExternalMetricsConfig, opened: ExitStack) -> Score:
    meteor = opened.enter_context(Meteor())
    return lambda batch: meteor.statistics(batch.captions, batch.references)


METEOR = Metric(
    columns=(schema.METEOR,),
    open=_open,
    formula=lambda sums: corpus_meteor(sums)[..., None],
    why_skipped=lambda config: meteor_missing() if config.meteor else "external.meteor is off",
    memory_bytes=2_500_000_000,
)
