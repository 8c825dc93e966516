"""Where the images of an annotation file are: tried out with the first few of its names."""

from collections.abc import Sequence

from raycap.config import StorageConfig
from raycap.errors import ObjectNotFound
from raycap.storage.address import Address
from raycap.storage.stores import ImageReader, open_store

NUM_TRIED = 4
"""Names that are looked for in a folder before the next one is."""

_USUAL = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # so misspelt by its authors
    "Flickr8k_Dataset",
    "flickr30k_images",
    "flickr30k-images",
)


def usual_folders(folder: str, words: Sequence[str] = ()) -> list[str]:
    """List where the images of an annotation file in a folder may be, likeliest first.

    That is in a folder of a usual name, or one called like `words` (`train2014`), beside the file
    or beside its folder, and at last in these two themselves.
    """
    parent = parent_of(folder)
    roots = [folder, parent] if parent else [folder]
    named = [*words, *(f"images/{word}" for word in words), *_USUAL]
    return [f"{root}/{name}" for root in roots for name in named] + roots[::-1]


def parent_of(folder: str) -> str | None:
    """Give the folder above a folder; None above a bucket and above all."""
    parent = folder.rpartition("/")[0]
    return parent if parent and not parent.endswith("/") else None


def find_folder(
    candidates: Sequence[str], names: Sequence[str], config: StorageConfig
) -> str | None:
    """Choose the first folder in which an image of those names stands; None if none does.

    Folders of the web are not tried out: what they refuse says little of what is there.

    Args:
        candidates: addresses of folders, without a trailing slash.
        names: images by their paths relative to the folder that is looked for.
        config: how stores are reached.
    """
    reader = ImageReader(config)
    tried = [name for name in names if not is_absolute(name)][:NUM_TRIED]
    for folder in candidates:
        if not Address.parse(folder).is_web and any(
            _exists(reader, image_uri(folder, name)) for name in tried
        ):
            return folder
    return None


def image_uri(folder: str, name: str) -> str:
    """Give the address of an image; names that are whole addresses or paths stay as they are."""
    return name if is_absolute(name) else f"{folder}/{name.removeprefix('./')}"


def is_absolute(name: str) -> bool:
    """Whether a name is a whole address or path."""
    return Address.parse(name).is_absolute


def folder_address(folder: str, config: StorageConfig) -> str:
    """Make the address of a folder of images absolute, without a trailing slash.

    Raises:
        ConfigError: it is none.
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
