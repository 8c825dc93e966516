"""Stanford's Penn Treebank tokenizer itself, as the published caption metrics use it.

Source: CoreNLP 3.4.1's `PTBTokenizer -preserveLines -lowerCase`, and the punctuation that
coco-caption drops (github.com/tylin/coco-caption).
"""

import re
from collections.abc import Sequence

from raycap.evaluation.java import JavaError, JavaProcess, find_javas, require, why_missing

PTB = "stanford-ptb-3.4.1"
"""The name of this tokenizer in results."""

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that are dropped. Brackets stay: coco-caption's list has them as `-LRB-` and so on, but
the tokens are lower-case."""

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_MAIN = "edu.stanford.nlp.process.PTBTokenizer"
_CHUNK_CAPTIONS = 10_000
_LINE_ENDS = re.compile("[\n\r\v\f\u2028\u2029]")  # all that the tokenizer takes for one

# An abbreviation that ends a caption is read by what the next line begins with. So each caption is
# followed by the same line, and its tokens are its own; and by this one, as most captions of COCO
# begin so (of the 202,654 of its validation set, one then differs from a run without these lines).
_NEXT, _NEXT_READ = "A", "a"

# The tokenizer reads ahead, and writes when its buffers are full: 16 and up to 24 kB. What follows
# the captions pushes their tokens out; it comes back before those of the next.
_PUSH = ("x" * 8191 + "\n") * 8
_PUSH_LINES = 8


def ptb_missing() -> str | None:
    """Say why the tokenizer cannot run here; None if it can."""
    return why_missing("the ptb tokenizer", _JAR)


class PtbTokenizer:
    """Tokenizes captions in one Java process, which ends with the block."""

    def __enter__(self) -> "PtbTokenizer":
        jar = require("the ptb tokenizer", _JAR)
        arguments = ["-cp", str(jar), _MAIN, "-preserveLines", "-lowerCase"]
        self._process = JavaProcess("the ptb tokenizer", find_javas()[0], arguments)
        self._process.__enter__()
        self._num_stale = 0
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(*error)

    def tokenize(self, captions: Sequence[str]) -> list[list[str]]:
        """Split captions into lower-case tokens without punctuation.

        A caption's tokens depend on it alone. Whatever a caption holds is its own line.

        Raises:
            JavaError: the program ended, or its answers do not fit the captions.
        """
        tokens: list[list[str]] = []
        for start in range(0, len(captions), _CHUNK_CAPTIONS):
            tokens += self._chunk(captions[start : start + _CHUNK_CAPTIONS])
        return tokens

    def _chunk(self, captions: Sequence[str]) -> list[list[str]]:
        text = "".join(f"{_LINE_ENDS.sub(' ', caption)}\n{_NEXT}\n" for caption in captions)
        lines = self._process.exchange(text + _PUSH, self._num_stale + 2 * len(captions))
        answers, separators = lines[self._num_stale :: 2], lines[self._num_stale + 1 :: 2]
        self._num_stale = _PUSH_LINES
        if any(line != _NEXT_READ for line in separators):
            raise JavaError("the ptb tokenizer's lines do not match the captions' lines")
        return [_keep_words(line) for line in answers]


def _keep_words(line: str) -> list[str]:
    words = [token for token in line.split(" ") if token not in PUNCTUATION]
    # "1 1/2" is one token, with a no-break space in it. coco-caption's BLEU and CIDEr-D count two,
    # as here; its ROUGE-L counts one.
    return " ".join(words).split()
