"""What is captioned is the same whether a large JPEG is decoded at a reduced scale or in full."""

from io import BytesIO

import numpy as np
from PIL import Image

from raycap.config import GenerationConfig, ImageConfig, ModelConfig
from raycap.demo.scenes import render, scene
from raycap.images.decoding import decode
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.sources import DEMO_FOLDER

NUM_SCENES = 16


def test_the_demo_model_captions_12_megapixels_as_if_decoded_in_full() -> None:
    captioner = BlipCaptioner.from_pretrained(DEMO_FOLDER, ModelConfig(), GenerationConfig())
    target = captioner.target
    side = (target.width_px, target.height_px)
    reduced, full = [], []
    for number in range(NUM_SCENES):
        buffer = BytesIO()
        photo = render(scene(71, number)).resize((4000, 3000), Image.Resampling.BICUBIC)
        photo.save(buffer, "JPEG", quality=90)
        reduced.append(decode(buffer.getvalue(), target, ImageConfig()).pixels)
        plain = Image.open(buffer).convert("RGB").resize(side, Image.Resampling.BICUBIC)
        full.append(np.asarray(plain))
    assert any((one != other).any() for one, other in zip(reduced, full, strict=True))

    captions = [captioner.caption(np.stack(pixels)) for pixels in (reduced, full)]

    texts = [[caption.text for caption in found] for found in captions]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > NUM_SCENES // 2
