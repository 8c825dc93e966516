"""A picture of what augmentation does, to look at before the hours of training."""

from raycap.errors import ImageError
from raycap.images import prepare_process
from raycap.storage.base import Store
from raycap.train.augmentation import picture_grid
from raycap.train.gathering import StreamSpec, read_images
from raycap.train.loading import changed, file_of, original
from raycap.train.plan import sample_rows

PREVIEW = "augmentation.jpg"
_NUM_IMAGES = 6
_NUM_EPOCHS = 5


def write_preview(store: Store, spec: StreamSpec) -> None:
    """Draw some training images: each as it is, and as the first epochs will see it."""
    prepare_process(spec.image)
    rows = []
    for image in read_images(sample_rows(spec.plan.groups, _NUM_IMAGES), spec):
        try:
            file = file_of(image.file(), image.uri, spec)
            variants = [changed(file, epoch, image.image_id, spec) for epoch in range(_NUM_EPOCHS)]
            rows.append([original(file, spec), *variants])
        except ImageError:
            continue  # training will tell of it
    if rows:
        store.write(PREVIEW, picture_grid(rows))
