"""BLIP's tokenizer against transformers' `AutoTokenizer`, on folders of several ages."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from raycap.errors import ModelError
from raycap.models.blip.captioner import load_network
from raycap.models.blip.tokenizer import BlipTokenizer
from raycap.models.folders import write_json
from raycap.models.sources import DEMO_FOLDER
from tests.support import tiny_blip

Edit = Callable[[Path], object]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = [
    *map(chr, range(33, 127)),
    *"äöüßéèñçøåœ¿¡\u2013\u2014\u2019\u201c\u201d…€°½",
    *"日本語中文",
    *"абвг",
    *"\u0627\u0628",
]
WORDS = "a the dog don can isn won it they we i'm man's o'clock Dog über naïve cafe ##s ##ing ##'s"
VOCABULARY = list(
    dict.fromkeys(
        [*SPECIALS, *CHARACTERS, *(f"##{one}" for one in CHARACTERS), *WORDS.split(), "n't", "'s"]
    )
)
TEXTS = [
    "",
    " ",
    "a dog",
    "The DOG isn't the man's, don't you think?",
    "it's 5 o'clock; they've won -- we're off! \"yes\" (no) [maybe] {so}",
    "I can ' t , really . they 're here ' s",
    "über naïve café ÄÖÜ ÉÈ ﬁne ﬃ Ǆ İstanbul",
    "e\u0301 combining a\u0308 n\u0303",
    "日本語 の 中文 text\uff0cmixed。",
    "абвг АБВГ \u0627\u0628",
    "tabs\tand\nnew\r\nlines\u00a0nbsp\u200bzero\u2009thin",
    "control \x00 \x07 \ufffd characters \ufeff bom",
    "emoji 😀 👩‍👩‍👧 flags 🇩🇪",
    "[CLS] a dog [SEP] [PAD][MASK] [UNK] [DEC] [dec] [ENC]",
    "¿qué? ¡sí! \u2013 \u2014 … € ° ½ x²",
    "a" * 120,
    "dogs dogging dog's",
]


def vocabulary(folder: Path, *, as_json: bool = True, **given: Any) -> Path:
    """Write the files of a tokenizer, and what names the kind of model."""
    (folder / "words.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    load: Any = BertTokenizer
    tokenizer = load(str(folder / "words.txt"), **given)
    (folder / "words.txt").rename(folder / "vocab.txt")
    if as_json:
        tokenizer.save_pretrained(folder)
        (folder / "vocab.txt").unlink()
    write_json(folder / "config.json", {"model_type": "blip"})
    return folder


def saved(**given: Any) -> Edit:
    return lambda folder: vocabulary(folder, **given)


def configured(*, as_json: bool = True, **values: Any) -> Edit:
    """Write a tokenizer whose `tokenizer_config.json` has these values; None removes one."""

    def edit(folder: Path) -> None:
        vocabulary(folder, as_json=as_json)
        file = folder / "tokenizer_config.json"
        content = json.loads(file.read_text()) if file.is_file() else {}
        content |= values
        given = {name: value for name, value in content.items() if value is not None}
        write_json(file, given)

    return edit


def old(*, as_json: bool) -> Edit:
    """Write a tokenizer as transformers did before 2023."""

    def edit(folder: Path) -> None:
        configured(as_json=as_json, do_lower_case=True, model_max_length=512)(folder)
        content = json.loads((folder / "tokenizer_config.json").read_text())
        content.pop("added_tokens_decoder", None)
        write_json(folder / "tokenizer_config.json", content)
        rules = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        named = {"bos_token": {"content": "[DEC]", **rules}, "unk_token": "[UNK]"}
        write_json(folder / "special_tokens_map.json", named)
        number = len(VOCABULARY)
        write_json(folder / "added_tokens.json", {"[ENC]": number + 1, "[DEC]": number})

    return edit


LISTED = {
    str(len(VOCABULARY) + place): {
        "content": content,
        "lstrip": False,
        "normalized": normalized,
        "rstrip": rstrip,
        "single_word": False,
        "special": special,
    }
    for place, (content, normalized, rstrip, special) in enumerate(
        [
            ("[DEC]", False, False, True),
            ("dogging", True, False, False),
            ("[ENC]", False, True, True),
        ]
    )
}

FOLDERS: dict[str, Edit] = {
    "plain": saved(),
    "with a start": saved(bos_token="[DEC]"),
    "cased": saved(do_lower_case=False),
    "cased without accents": saved(do_lower_case=False, strip_accents=True),
    "lower case with accents": saved(strip_accents=False),
    "Chinese characters in words": saved(tokenize_chinese_chars=False),
    "other names": saved(unk_token="[MASK]", mask_token="[UNK]"),
    "cleaned up": configured(clean_up_tokenization_spaces=True),
    "not cleaned up": configured(clean_up_tokenization_spaces=False),
    "special tokens as text": configured(split_special_tokens=True),
    "fast": configured(tokenizer_class="BertTokenizerFast"),
    "no class": configured(tokenizer_class=None),
    "added tokens": configured(added_tokens_decoder=LISTED, bos_token="[DEC]"),
    "no added tokens": configured(added_tokens_decoder={}),
    "vocabulary only": saved(as_json=False),
    "vocabulary and settings": configured(
        as_json=False, do_lower_case=False, tokenizer_class="BertTokenizer"
    ),
    "old": old(as_json=True),
    "old, vocabulary only": old(as_json=False),
    # Left to transformers.
    "tokens of own kinds": configured(extra_special_tokens=["[ENC]", "dogging"]),
    "tokens of own names": configured(enc_token="[ENC]"),
    "rules of the file": configured(tokenizer_class="PreTrainedTokenizerFast"),
}


def both(folder: Path) -> tuple[BlipTokenizer, Any]:
    load: Any = AutoTokenizer.from_pretrained
    return BlipTokenizer.load(folder), load(folder)


def check_alike(ours: BlipTokenizer, theirs: Any, texts: list[str]) -> None:
    encoded = theirs(texts, add_special_tokens=False).input_ids
    assert ours.encode(texts) == encoded
    for tokens in encoded:
        assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("edit", FOLDERS.values(), ids=FOLDERS)
def test_tokens_and_text_are_those_of_transformers(edit: Edit, tmp_path: Path) -> None:
    edit(tmp_path)
    ours, theirs = both(tmp_path)
    check_alike(ours, theirs, TEXTS)
    rng = random.Random(0)
    for _ in range(200):  # what no text becomes, but a model may write
        tokens = [rng.randrange(len(theirs)) for _ in range(rng.randint(1, 12))]
        assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)


def test_the_folders_differ(tmp_path: Path) -> None:
    found = set()
    for name, edit in FOLDERS.items():
        folder = tmp_path / name
        folder.mkdir()
        edit(folder)
        ours = BlipTokenizer.load(folder)
        encoded = ours.encode(TEXTS)
        found.add(json.dumps([encoded, [ours.decode(tokens) for tokens in encoded]]))
    assert len(found) >= 10


@pytest.fixture(scope="module", params=["demo", "words"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BlipTokenizer, Any]:
    if request.param == "demo":
        return both(DEMO_FOLDER)
    return both(vocabulary(tmp_path_factory.mktemp("words"), bos_token="[DEC]"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text() | st.text(st.sampled_from("aA dogDOG'.,!?-éß中[SEP]\t ")))
def test_any_text_becomes_the_tokens_of_transformers(
    pair: tuple[BlipTokenizer, Any], text: str
) -> None:
    check_alike(*pair, [text])


def test_long_captions_are_not_cut(pair: tuple[BlipTokenizer, Any]) -> None:
    assert len(pair[0].encode(["a " * 700])[0]) == 700


def test_a_tokenizer_that_is_none_is_a_model_error(tmp_path: Path) -> None:
    folder = tiny_blip.save_model(tmp_path / "model")
    for content in ("{}", "[]", '{"model": {"vocab": 3}, "added_tokens": []}'):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError) as caught:
            load_network(folder, torch.float32)
        assert "\n" not in str(caught.value)
