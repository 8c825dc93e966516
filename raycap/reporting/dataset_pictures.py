"""Pictures of a caption dataset's images: those that it holds, or those that it names."""

from collections.abc import Sequence

from raycap.config import ReportConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import RaycapError
from raycap.reporting.pictures import Picture, fetch_thumbnails, thumbnail
from raycap.storage.parallel import ordered_map

_THREADS = 8

Wanted = tuple[str, str | None]
"""An image's id, and its address where it has one."""


def dataset_pictures(
    dataset: CaptionDataset, wanted: Sequence[Wanted], config: ReportConfig
) -> list[Picture]:
    """Shrink images of a dataset.

    Raises:
        DatasetError: a part is damaged.
        StorageError: the dataset's store refuses.
    """
    if not dataset.record.config.get("embed", {}).get("enabled", True):
        return fetch_thumbnails([uri for _, uri in wanted], config)

    def shrink(image: tuple[str, bytes]) -> tuple[str, Picture]:
        return image[0], thumbnail(image[1], config)

    images = dataset.images([image_id for image_id, _ in wanted])
    pictures = dict(ordered_map(shrink, images, _THREADS))
    lost = Picture(reason="it is not in the dataset any more")
    return [pictures.get(image_id, lost) for image_id, _ in wanted]


def reference_pictures(
    references: str, wanted: Sequence[Wanted], config: ReportConfig
) -> list[Picture]:
    """Shrink the images of references: a dataset's own, or else those at their addresses.

    Raises:
        DatasetError: a part of the dataset is damaged.
        StorageError: the dataset's store refuses.
    """
    try:
        dataset = open_dataset(references, config.storage)
    except RaycapError:
        # They are no dataset, or stand there no more: the addresses tell what can be shown.
        return fetch_thumbnails([uri for _, uri in wanted], config)
    return dataset_pictures(dataset, wanted, config)
