"""Where a model with attention looks: `attention.jpg`, of the best epoch so far."""

import numpy as np
from jaxtyping import UInt8

from raycap.models.base import AttentiveCaptioner
from raycap.train.context import Run
from raycap.train.overlays import ATTENTION, attention_sheet, encode_sheets

NUM_SHOWN = 4
"""Validation images that are shown."""


def write_attention(run: Run, pixels: UInt8[np.ndarray, "b h w 3"]) -> None:
    """Draw where the model looks in some images, word by word; nothing if it cannot tell.

    Called where the weights that caption are in place, in evaluation mode.
    """
    captioner = run.learner.trainable.captioner(run.config.generation)
    if not isinstance(captioner, AttentiveCaptioner) or not len(pixels):
        return
    with run.learner.averaged(), run.learner.arithmetic():
        attended = captioner.attend_words(pixels)
    sheets = [
        attention_sheet(image, found.texts, found.weights)
        for image, found in zip(pixels, attended, strict=True)
    ]
    run.store.write(ATTENTION, encode_sheets(sheets))
