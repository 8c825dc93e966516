"""The subset and the split of an image, by hashes of its id, and the names of splits.

Neither depends on other images, on their order or on the machine: a subset is contained in every
larger one, and an image has the same split in all of them.
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
    "restval": TRAIN,  # Karpathy's: the part of COCO's validation images used for training
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
SPLIT_WORDS = tuple(_SPLITS)
"""Names of splits in sources."""
_YEAR = re.compile(r"[-_]?(?:19|20)\d\d$")
_IN_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(_SPLITS)})(?![a-z])")


def rank_of(image_id: str) -> int:
    """Return the rank of an image id, from 0 to 2**64 - 1.

    A subset contains the images below its limit; the seed of the splits does not matter.
    """
    return _hash(image_id.encode(), b"raycap-subset")


def subset_limit(share: float) -> int:
    """Return the rank below which all images of a subset are; `share` is from 0 to 1."""
    return int(share * _END)


def hashed_split(image_id: str, config: SplitConfig) -> str:
    """Draw the split of an image.

    The test split does not depend on the share of the validation split, and neither depends on
    the number of images.
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
    """Return the split that a word names, with or without a year; None if it names none."""
    return _SPLITS.get(_YEAR.sub("", word.strip().lower()))


def known_split(name: str) -> str:
    """Return raycap's name of a split: `validation` for `val` and `dev`."""
    return known_word(name) or name.strip().lower()


def word_in_name(path: str) -> tuple[str, str] | None:
    """Find the split that a path's words name, as in `captions_val2014.json` or `train/0.tar`.

    Returns:
        the split, and the word including the year (`val2014`); None if the path names none or
        several.
    """
    words = list(_IN_NAME.finditer(path.lower()))
    splits = {_SPLITS[word[1]] for word in words}
    if len(splits) != 1:
        return None
    digits = re.compile(r"\d*").match(path, words[-1].end())
    return splits.pop(), words[-1][1] + (digits[0] if digits else "")


def split_in_name(path: str) -> str | None:
    """Return the split that a path's words name, if they name exactly one."""
    found = word_in_name(path)
    return found[0] if found else None


_ABOVE_SPLITS = ("images", "image", "imgs", "img", "data")


def split_of_folder(name: str) -> str | None:
    """Return the split that the folder of a relative name is of, as in `train/cats/1.jpg`.

    That is the first folder, or the second in `images/`.
    """
    folders = _folders_of(name)
    return known_word(folders[0]) if folders else None


def is_below_split_folder(name: str) -> bool:
    """Whether a relative name has a folder of a split where it does not count: `a/train/1.jpg`."""
    is_relative = not name.startswith("/") and "://" not in name
    return is_relative and any(map(known_word, _folders_of(name)[1:]))


def _folders_of(name: str) -> list[str]:
    folders = name.removeprefix("./").split("/")[:-1]
    is_above = bool(folders) and folders[0].lower() in _ABOVE_SPLITS
    return folders[1:] if is_above else folders


def split_order(name: str) -> tuple[int, str]:
    """Return the sort key of a split: train, validation, test, then all others by name."""
    usual = (TRAIN, VALIDATION, TEST)
    return (usual.index(name) if name in usual else len(usual), name)
