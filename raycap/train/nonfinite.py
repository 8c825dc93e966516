"""A loss that is no number: which images it came with."""

import math
from typing import NoReturn

from raycap.errors import RunStopped
from raycap.records import encode_json
from raycap.train.context import Run
from raycap.train.feed import Batch

NON_FINITE = "nonfinite.json"


def stop_at_non_finite(run: Run, batch: Batch) -> NoReturn:
    """Write which images the step had, and which of them alone give no finite loss; then stop.

    Called by all workers, each with its share of the step.

    Raises:
        RunStopped: always.
    """
    # One bad image would make all others look bad, through the statistics of batch norms.
    run.learner.restore_buffers()
    losses = [
        run.learner.measure(batch.only(index), max_captions=1)[0]
        for index in range(len(batch.image_ids))
    ]
    pairs = list(zip(batch.image_ids, losses, strict=True))
    gathered = [pair for pairs in run.workers.gather(pairs) for pair in pairs]
    suspects = [image_id for image_id, loss in gathered if not math.isfinite(loss)]
    # Where all of them do, it is the weights that have gone astray, not the images.
    are_images = 0 < len(suspects) < len(gathered)
    place = f"step {batch.number + 1} of epoch {batch.epoch + 1}"
    if run.workers.is_first:
        found = {
            "epoch": batch.epoch + 1,
            "step": batch.number + 1,
            "image_ids": [image_id for image_id, _ in gathered],
            "suspects": suspects,
        }
        run.store.write(NON_FINITE, encode_json(found))
    raise RunStopped(
        f"the loss is not finite at {place}: {run.store.address(NON_FINITE)} lists its "
        f"{len(gathered)} images, {len(suspects)} of which alone give such a loss; "
        + (
            "take them out of the dataset, and train in a new output"
            if are_images
            else "lower train.lr or optimizer.clip_norm, and train in a new output"
        )
    )
