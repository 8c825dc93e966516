"""BLIP's tokenizer: BERT's word pieces, by the library `tokenizers`.

Tokens and decoded text are those of transformers' `AutoTokenizer`, which builds BERT's tokenizer
from the vocabulary and `tokenizer_config.json`; the other rules in `tokenizer.json` do not count.
Folders with a tokenizer of another class are left to transformers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from raycap.models.blip.kind import VOCABULARY_FILE
from raycap.models.folders import CONFIG_FILE, TOKENIZER_FILE, read_json

_LISTED = "added_tokens_decoder"
_NAMES = {
    "bos_token": None,
    "eos_token": None,
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
"""Special tokens by name, in the order in which they are added, with BERT's defaults."""
_CLEANED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""Replacements by `clean_up_tokenization_spaces`, which see more than one token at a time."""


class BlipTokenizer:
    """Converts captions to tokens and back."""

    def __init__(self, tokenizer: Tokenizer, *, cleans_up: bool) -> None:
        """Prepare.

        Args:
            tokenizer: The rules and the vocabulary.
            cleans_up: Whether spaces around punctuation and contractions are removed from text.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._cleans_up = cleans_up

    @classmethod
    def load(cls, folder: Path) -> "BlipTokenizer":
        """Load the tokenizer of a folder.

        Raises:
            ModelError: a file is not JSON.
            Exception: another error of a library, see `weights.load_errors`.
        """
        settings = _read_settings(folder)
        if not _is_plain_bert(folder, settings):
            return _load_with_transformers(folder)
        return cls(
            _build_bert(folder, settings),
            cleans_up=bool(settings.get("clean_up_tokenization_spaces")),
        )

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Convert captions to tokens, without adding special ones."""
        found = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        return [one.ids for one in found]

    def decode(self, tokens: Sequence[int]) -> str:
        """Convert tokens to text, without special ones."""
        text = str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))
        for spaced, joined in _CLEANED if self._cleans_up else ():
            text = text.replace(spaced, joined)
        return text


def _read_settings(folder: Path) -> dict[str, Any]:
    settings = _read_if_there(folder / "tokenizer_config.json")
    if _LISTED not in settings:
        settings |= _read_if_there(folder / "special_tokens_map.json")
    return settings


def _read_if_there(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _is_plain_bert(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the settings name BERT's tokenizer, with no other special tokens than its own."""
    config = read_json(folder / CONFIG_FILE)
    kind = settings.get("tokenizer_class") or config.get("tokenizer_class") or "BertTokenizer"
    others = (
        value
        for name, value in settings.items()
        if name.endswith(("_token", "_special_tokens")) and name not in _NAMES
    )
    return kind in ("BertTokenizer", "BertTokenizerFast") and not any(others)


def _load_with_transformers(folder: Path) -> BlipTokenizer:
    from transformers import AutoTokenizer  # noqa: PLC0415  slow, and hardly ever needed

    loaded: Any = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return BlipTokenizer(
        loaded.backend_tokenizer, cleans_up=bool(loaded.clean_up_tokenization_spaces)
    )


def _build_bert(folder: Path, settings: dict[str, Any]) -> Tokenizer:
    named = {name: settings.get(name, default) for name, default in _NAMES.items()}
    unknown = _token(named["unk_token"] or "[UNK]").content
    if (folder / TOKENIZER_FILE).is_file():
        stored = read_json(folder / TOKENIZER_FILE)
        model = WordPiece(stored["model"]["vocab"], unk_token=unknown)
    else:
        stored = {"added_tokens": []}
        model = WordPiece.from_file(str(folder / VOCABULARY_FILE), unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    # Those of the vocabulary keep their numbers, others get the next ones.
    special = [_token(value) for value in named.values() if value is not None]
    tokenizer.add_tokens(_added_tokens(folder, settings, stored["added_tokens"], special))
    tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens"))
    return tokenizer


def _added_tokens(
    folder: Path, settings: dict[str, Any], stored: list[Any], special: list[AddedToken]
) -> list[AddedToken]:
    """Return the tokens beside the vocabulary, in the order of their numbers, then special ones."""
    listed = settings.get(_LISTED)
    if listed is None:
        # As transformers wrote folders before 2023.
        texts = {token.content for token in special}
        listed = {
            number: {"content": text, "normalized": text not in texts, "special": text in texts}
            for text, number in _read_if_there(folder / "added_tokens.json").items()
        }
        listed |= {token["id"]: token for token in stored}
    found: dict[str, AddedToken] = {}
    for number in sorted(listed, key=int):
        token = _token(listed[number])
        found.setdefault(token.content, token)
    for token in special:
        found.setdefault(token.content, token).special = True
    return list(found.values())


def _token(value: Any) -> AddedToken:
    """Return a token: from its text, special, or from a JSON object with its rules."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    rules = {name: rule for name, rule in value.items() if name not in ("id", "__type")}
    return AddedToken(**rules)
