"""Which subset and which split an image belongs to: told by hashes of its id, by nothing else.

So neither depends on other images, on their order or on the machine: a subset lies within every
larger one, and an image keeps its split in all of them. And how sources and people call splits.
"""

import re
from hashlib import blake2b

from raycap.config import SplitConfig

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"

_END = 2**64
_SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "restval": TRAIN,  # Karpathy's: the part of COCO's validation images that he trains on
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
SPLIT_WORDS = tuple(_SPLITS)
"""How splits are called in the sources."""
_YEAR = re.compile(r"[-_]?(?:19|20)\d\d$")
_IN_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(_SPLITS)})(?![a-z])")


def rank_of(image_id: str) -> int:
    """Place an image among all that there could be, from 0 to 2**64 - 1.

    A subset is the images below its limit, whatever the seed of the splits.
    """
    return _hash(image_id.encode(), b"raycap-subset")


def subset_limit(share: float) -> int:
    """Rank that all images of a subset lie below; `share` is of all images, from 0 to 1."""
    return int(share * _END)


def hashed_split(image_id: str, config: SplitConfig) -> str:
    """Draw the split of an image.

    The test split does not change with the share of the validation split, nor either of them
    with the number of images.
    """
    place = _hash(f"{config.seed}\0{image_id}".encode(), b"raycap-split")
    if place < int(config.test * _END):
        return TEST
    if place < int((config.test + config.validation) * _END):
        return VALIDATION
    return TRAIN


def _hash(data: bytes, purpose: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8, person=purpose).digest(), "big")


def known_word(word: str) -> str | None:
    """Give the split that a word names, with a year or without; None if it names none."""
    return _SPLITS.get(_YEAR.sub("", word.strip().lower()))


def known_split(name: str) -> str:
    """Bring what a person calls a split to raycap's name of it: `val` and `dev` to `validation`."""
    return known_word(name) or name.strip().lower()


def word_in_name(path: str) -> tuple[str, str] | None:
    """Find the split that a path's words name, as in `captions_val2014.json` or `train/0.tar`.

    Returns:
        The split, and the word with the year behind it (`val2014`); None where the path names
        none, or several.
    """
    words = list(_IN_NAME.finditer(path.lower()))
    splits = {_SPLITS[word[1]] for word in words}
    if len(splits) != 1:
        return None
    digits = re.compile(r"\d*").match(path, words[-1].end())
    return splits.pop(), words[-1][1] + (digits[0] if digits else "")


def split_in_name(path: str) -> str | None:
    """Give the split that a path's words name, if they name one."""
    found = word_in_name(path)
    return found[0] if found else None


def split_order(name: str) -> tuple[int, str]:
    """Sort key of splits: train, validation, test, then all others by name."""
    usual = (TRAIN, VALIDATION, TEST)
    return (usual.index(name) if name in usual else len(usual), name)
