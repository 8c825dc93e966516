"""The words of a captioner that is trained from scratch: byte-pair encoding of its captions.

Source: Sennrich et al. 2016, arXiv:1508.07909, over characters, by the library `tokenizers`.

Captions are lower-cased, brought into Unicode's form NFKC, and every run of white space becomes one
space: upper case says little about an image, the metrics ignore it, and a small set of captions
has too few examples of a word to learn two spellings of it. All else comes back as it was.
Punctuation is always a token of its own. A character that no training caption has is `[UNK]`, and
vanishes from texts.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from raycap.errors import ModelError

PAD, UNKNOWN, START, END = range(4)
"""Padding; any character that is not known; before and after every caption."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[START]", "[END]")
"""How they are written, in the order of their numbers."""

_LEAST_COUNT = 2  # a pair seen once is no pattern


class CaptionTokenizer:
    """Turns captions into tokens and back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # A caption that spells "[END]" must not end there.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary_size: int) -> "CaptionTokenizer":
        """Learn the tokens of captions; the same captions in any order give the same tokens.

        Args:
            captions: read once, and counted, not kept.
            vocabulary_size: tokens at the most, with the special ones; few captions give fewer.
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
        """Load what `save` wrote.

        Raises:
            ModelError: the file is missing, or is something else.
        """
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(
                f"{file}: cannot be read as a tokenizer ({error}): restore the file"
            ) from error
        found = tuple(tokenizer.id_to_token(number) for number in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            raise ModelError(
                f"{file}: its first tokens are {found}, not {SPECIAL_TOKENS}: restore the file"
            )
        return cls(tokenizer)

    def save(self, file: Path) -> None:
        """Write `tokenizer.json`, which transformers' `PreTrainedTokenizerFast` reads, too."""
        self._tokenizer.save(str(file))

    @property
    def size(self) -> int:
        """Number of tokens, the special ones counted."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Turn captions into tokens, without special ones."""
        return [found.ids for found in self._tokenizer.encode_batch(list(captions))]

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text; special ones vanish."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def starts_word(self, token: int) -> bool:
        """Whether a token begins after a space, and not within a word or as its punctuation."""
        return str(self._tokenizer.id_to_token(token)).startswith("▁")
