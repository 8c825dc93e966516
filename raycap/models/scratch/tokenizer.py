"""The tokenizer of models trained from scratch: byte-pair encoding learned from their captions.

Source: Sennrich et al. 2016, arXiv:1508.07909, over characters, by the library `tokenizers`.

Captions are converted to lower case and Unicode form NFKC, and runs of white space to one space.
Upper case says little about an image, the metrics ignore it, and a small set of captions has too
few examples of a word to learn two spellings. Everything else is reversible. Punctuation marks are
tokens of their own. A character that occurs in no training caption is `[UNK]`, and is left out of
decoded text.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from raycap.errors import ModelError

PAD, UNKNOWN, START, END = range(4)
"""Padding; unknown character; start and end of a caption."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[START]", "[END]")
"""Their texts, in the order of their numbers."""

_LEAST_COUNT = 2  # a pair that occurs once is not a pattern


class CaptionTokenizer:
    """Converts captions to tokens and back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # The text "[END]" in a caption must not become the end token.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary_size: int) -> "CaptionTokenizer":
        """Learn tokens from captions, regardless of their order.

        Args:
            captions: Read once and counted, not kept.
            vocabulary_size: Maximum number of tokens, including special ones; few captions give
                fewer.
        """
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNKNOWN], fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFKC(),
                normalizers.Lowercase(),
                normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
                normalizers.Strip(),
            ]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
        )
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            min_frequency=_LEAST_COUNT,
            special_tokens=list(SPECIAL_TOKENS),
            limit_alphabet=vocabulary_size - len(SPECIAL_TOKENS),
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, file: Path) -> "CaptionTokenizer":
        """Load a file that `save` wrote.

        Raises:
            ModelError: the file is missing or not such a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no narrower class
            raise ModelError(
                f"{file}: cannot be read as a tokenizer ({error}): restore the file", uri=str(file)
            ) from error
        found = tuple(tokenizer.id_to_token(number) for number in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            raise ModelError(
                f"{file}: its first tokens are {found}, not {SPECIAL_TOKENS}: restore the file",
                uri=str(file),
            )
        return cls(tokenizer)

    def save(self, file: Path) -> None:
        """Write `tokenizer.json`, which transformers' `PreTrainedTokenizerFast` also reads."""
        self._tokenizer.save(str(file))

    @property
    def size(self) -> int:
        """Number of tokens, including special ones."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Convert captions to tokens, without special ones."""
        return [found.ids for found in self._tokenizer.encode_batch(list(captions))]

    def decode(self, tokens: Sequence[int]) -> str:
        """Convert tokens to text, without special ones."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def starts_word(self, token: int) -> bool:
        """Whether a token starts a word, instead of continuing one or being punctuation."""
        return str(self._tokenizer.id_to_token(token)).startswith("▁")
