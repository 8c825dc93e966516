"""Pictures of a page: thumbnails embedded in the page itself."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from raycap.config import ReportConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import ConfigError, ImageError, RaycapError, StorageError, TransientError
from raycap.images.decoding import Target, decode
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

_THREADS = 8
_MAX_UNREACHABLE = 8
_PROBE = Target(width_px=1, height_px=1, resample="nearest")  # cheap, and tells the image's size
_QUALITIES = (80, 60, 40)
_BYTES_PER_PX = 0.33  # of a square thumbnail: 200 of 320 pixels stay below 10 MB, even white noise
_LEAST_BYTES = 4_000


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
        size = decode(image, _PROBE, config.image)
        target = _fitting(size.width_px, size.height_px, config.thumbnail_px)
        pixels = decode(image, target, config.image).pixels
    except ImageError as error:
        return Picture(reason=str(error))
    max_bytes = max(_LEAST_BYTES, int(_BYTES_PER_PX * config.thumbnail_px**2))
    data = _encode(Image.fromarray(pixels), max_bytes)
    return Picture(
        data=f"data:image/webp;base64,{b64encode(data).decode()}",
        width_px=target.width_px,
        height_px=target.height_px,
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


def _fitting(width_px: int, height_px: int, side_px: int) -> Target:
    scale = min(1.0, side_px / max(width_px, height_px))
    return Target(
        width_px=max(1, round(width_px * scale)), height_px=max(1, round(height_px * scale))
    )


def _encode(image: Image.Image, max_bytes: int) -> bytes:
    """Encode as WebP; if too large, in lower quality, and finally at half the size."""
    data = b""
    for quality in _QUALITIES:
        data = _webp(image, quality)
        if len(data) <= max_bytes:
            return data
    return _webp(image.reduce(2), _QUALITIES[-1])


def _webp(image: Image.Image, quality: int) -> bytes:
    sink = BytesIO()
    image.save(sink, "WEBP", quality=quality, method=4)
    return sink.getvalue()
