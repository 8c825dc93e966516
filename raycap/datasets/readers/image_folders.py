"""Where the images of an annotation file are, by probing its first few names."""

from collections.abc import Callable, Sequence

from raycap.config import StorageConfig
from raycap.errors import ObjectNotFound
from raycap.storage.address import Address
from raycap.storage.stores import ImageReader, open_store

NUM_TRIED = 4
"""Names probed in a folder before the next folder."""
NUM_PEEKED = 256
"""Names looked at to see how names are written."""

Convert = Callable[[str | None], str | None]
"""Turns the name of an image into its path relative to a folder."""

_USUAL = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # misspelt by its authors
    "Flickr8k_Dataset",
    "flickr30k_images",
    "flickr30k-images",
)


def usual_folders(folder: str, words: Sequence[str] = ()) -> list[str]:
    """List where the images of an annotation file in a folder may be, most likely first.

    That is a folder with a usual name or one of `words` (`train2014`), beside the file or beside
    its folder, and finally these two themselves.
    """
    parent = parent_of(folder)
    roots = [folder, parent] if parent else [folder]
    named = [*words, *(f"images/{word}" for word in words), *_USUAL]
    return [f"{root}/{name}" for root in roots for name in named] + roots[::-1]


def parent_of(folder: str) -> str | None:
    """Return the parent of a folder; None for a bucket or a root."""
    parent = folder.rpartition("/")[0]
    return parent if parent and not parent.endswith("/") else None


def find_folder(
    candidates: Sequence[str], names: Sequence[str], config: StorageConfig
) -> str | None:
    """Return the first folder that contains an image of those names; None if none does.

    Web folders are not probed: a refused request says little about what exists.

    Args:
        candidates: addresses of folders, without a trailing slash.
        names: images by their paths relative to the wanted folder.
        config: settings of stores.
    """
    reader = ImageReader(config)
    tried = [name for name in names if not is_absolute(name)][:NUM_TRIED]
    for folder in candidates:
        if not Address.parse(folder).is_web and any(
            _exists(reader, image_uri(folder, name)) for name in tried
        ):
            return folder
    return None


def find_images(
    candidates: Sequence[str], names: Sequence[str], config: StorageConfig
) -> tuple[str, Convert]:
    """Find the folder of some images, the last candidate if in doubt, and how names are written.

    A backslash separates folders in names that Windows wrote, unless there is a file of that very
    name.
    """
    windows = [name for name in names if "\\" in name and not is_absolute(name)]
    if windows and find_folder(candidates, windows, config) is None:
        names = [with_slashes(name) or name for name in names]
        return find_folder(candidates, names, config) or candidates[-1], with_slashes
    folder = find_folder(candidates[:-1], names, config) or candidates[-1]
    return folder, _unchanged if windows else with_slashes


def with_slashes(name: str | None) -> str | None:
    """Replace the backslashes of a relative path."""
    return name if name is None or is_absolute(name) else name.replace("\\", "/")


def _unchanged(name: str | None) -> str | None:
    return name


def image_uri(folder: str, name: str) -> str:
    """Return the address of an image; a name that is an absolute address or path is unchanged."""
    return name if is_absolute(name) else f"{folder}/{name.removeprefix('./')}"


def is_absolute(name: str) -> bool:
    """Return whether a name is an absolute address or path."""
    return Address.parse(name).is_absolute


def folder_address(folder: str, config: StorageConfig) -> str:
    """Return the absolute address of a folder of images, without a trailing slash.

    Raises:
        ConfigError: it is not an address of a folder.
    """
    if Address.parse(folder).is_web:
        return folder.rstrip("/")
    return open_store(folder, config).uri.rstrip("/")


def _exists(reader: ImageReader, uri: str) -> bool:
    try:
        reader.read_range(uri, 0, 1)
    except ObjectNotFound:
        return False
    return True
