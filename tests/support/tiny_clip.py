"""A small random CLIP in a folder, and images and captions for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from raycap.models.pretrained import quiet

SIDE_PX = 32
CONTEXT = 24
"""Tokens that it reads of a text: a letter each, of which the prompt takes thirteen."""


def save_clip(folder: Path, **processing: Any) -> Path:
    """Save a random CLIP whose weights are large enough to tell images and texts apart."""
    sides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vocabulary = _vocabulary()
    end = len(vocabulary) - 1
    tokens = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={
            **sides,
            **tokens,
            "vocab_size": len(vocabulary),
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
        },
        vision_config={
            **sides,
            "num_attention_heads": 4,
            "image_size": SIDE_PX,
            "patch_size": 8,
        },
        projection_dim=24,
    )
    torch.manual_seed(1)
    model: Any = CLIPModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and weight.ndim > 1:
                weight.normal_(0, 0.3)
    with quiet():
        model.save_pretrained(folder)
    tokenizer: Any = CLIPTokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(folder)
    square = {"height": SIDE_PX, "width": SIDE_PX}
    CLIPImageProcessor(
        **({"size": {"shortest_edge": SIDE_PX}, "crop_size": square} | processing)
    ).save_pretrained(folder)
    return folder


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(33, 127)]
    entries = [*letters, *(f"{letter}</w>" for letter in letters)]
    return {entry: at for at, entry in enumerate([*entries, "<|startoftext|>", "<|endoftext|>"])}


def random_image(width_px: int, height_px: int, seed: int) -> UInt8[np.ndarray, "h w 3"]:
    """Blocks of colour: noise alone would look the same to a random model."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (height_px // 8 + 1, width_px // 8 + 1, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height_px, :width_px]


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of `config.json`."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
