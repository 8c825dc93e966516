"""Generated models and photos that several benchmarks share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor


def write_blip_base(folder: Path) -> None:
    """Save BLIP-base with random weights: the captions are noise, the arithmetic is real."""
    torch.manual_seed(0)
    config = BlipConfig()
    text: Any = config.text_config
    text.vocab_size = 30_524
    vision: Any = config.vision_config
    vision.image_size = 384
    BlipForConditionalGeneration(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    words += [f"word{number}" for number in range(30_524 - len(words))]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    BertTokenizer(str(vocabulary)).save_pretrained(folder)
    BlipImageProcessor().save_pretrained(folder)


def write_photos(folder: Path, count: int) -> None:
    """Write generated JPEGs of 640 x 480 pixels."""
    folder.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480)).save(folder / f"{number:05d}.jpg", quality=90)
