"""Pictures of a page: thumbnails embedded in the page itself."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from raycap.config import ReportConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import ConfigError, ImageError, RaycapError, StorageError, TransientError
from raycap.images import thumbnails
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

_THREADS = 8
_MAX_UNREACHABLE = 8


Wanted = tuple[str, str | None]
"""An image's id, and its address if known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A thumbnail, or the reason why there is none."""

    data: str = ""
    """A `data:` address; empty if the image cannot be shown."""
    width_px: int = 0
    height_px: int = 0
    reason: str = ""
    """Why it cannot be shown."""


def thumbnail(image: bytes, config: ReportConfig) -> Picture:
    """Shrink an image file, decoded with the limits of captioning. Small images keep their size."""
    try:
        small = thumbnails.thumbnail(image, config.thumbnail_px, config.image)
    except ImageError as error:
        return Picture(reason=str(error))
    return Picture(
        data=f"data:image/webp;base64,{b64encode(small.data).decode()}",
        width_px=small.width_px,
        height_px=small.height_px,
    )


def fetch_thumbnails(
    uris: Sequence[str | None],
    config: ReportConfig,
    versions: Sequence[str | None] | None = None,
) -> list[Picture]:
    """Read images from their addresses, and shrink them.

    Args:
        uris: their addresses; None if unknown.
        config: size of thumbnails, limits of decoding, access to stores.
        versions: what each image was when it was captioned, as a listing has it; None if unknown.
    """
    fetch = _Fetcher(config)
    wanted = zip(uris, versions or [None] * len(uris), strict=True)
    return list(ordered_map(lambda image: fetch(*image), wanted, _THREADS))


def dataset_pictures(
    dataset: CaptionDataset, wanted: Sequence[Wanted], config: ReportConfig
) -> list[Picture]:
    """Shrink images of a caption dataset: embedded ones, or those at their addresses.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the dataset cannot be read.
    """
    if not dataset.record.config.get("embed", {}).get("enabled", True):
        digests = dataset.digests([image_id for image_id, _ in wanted])
        versions = [digests.get(image_id) for image_id, _ in wanted]
        return fetch_thumbnails([uri for _, uri in wanted], config, versions)

    def shrink(image: tuple[str, bytes]) -> tuple[str, Picture]:
        return image[0], thumbnail(image[1], config)

    images = dataset.images([image_id for image_id, _ in wanted])
    pictures = dict(ordered_map(shrink, images, _THREADS))
    lost = Picture(reason="it is no longer in the dataset")
    return [pictures.get(image_id, lost) for image_id, _ in wanted]


def reference_pictures(
    references: str, wanted: Sequence[Wanted], config: ReportConfig
) -> list[Picture]:
    """Shrink images of references: of a caption dataset, or else those at their addresses.

    Raises:
        DatasetError: a part of the dataset is damaged.
        StorageError: the dataset cannot be read.
    """
    try:
        dataset = open_dataset(references, config.storage)
    except RaycapError:
        # Not a dataset, or no longer there: the addresses may still lead to the images.
        return fetch_thumbnails([uri for _, uri in wanted], config)
    return dataset_pictures(dataset, wanted, config)


class _Fetcher:
    """Reader of images that gives up once too many cannot be reached."""

    def __init__(self, config: ReportConfig) -> None:
        self._config = config
        self._reader = ImageReader(config.storage)
        # Each fails only after all its retries: hundreds of them would take hours.
        self._num_unreachable = 0

    def __call__(self, uri: str | None, version: str | None) -> Picture:
        if uri is None:
            return Picture(reason="its address is not known")
        if self._num_unreachable >= _MAX_UNREACHABLE:
            return Picture(reason=f"not tried: {_MAX_UNREACHABLE} others could not be reached")
        try:
            image = self._reader.read(uri, self._config.image.max_bytes)
            is_same = self._reader.is_version(uri, version, image)
        except TransientError as error:
            self._num_unreachable += 1
            return Picture(reason=str(error))
        except (StorageError, ConfigError) as error:
            return Picture(reason=str(error))
        if is_same is False:
            return Picture(reason="it has changed in the meantime")
        return thumbnail(image, self._config)
