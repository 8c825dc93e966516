"""Train the small BLIP that ships in the package, on rendered scenes.

Run ``python -m raycap.demo.train OUTPUT_DIR``. The result is a Hugging Face
folder that stands in for pretrained BLIP: it writes 7-8 words, and each caption
names only some of the attributes, although the model has learnt all of them.

Source: Li et al. 2022, arXiv:2201.12086 (the captioning part, at our own sizes).
"""

import argparse
import json
import logging
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from raycap.demo.scenes import (
    ATTRIBUTES,
    Place,
    Scene,
    is_exactly_right,
    long_captions,
    named_attributes,
    render,
    scene,
    short_caption,
    short_captions,
)
from raycap.models.blip.kind import BlipKind

logger = logging.getLogger(__name__)

IMAGE_PX = 64  # side of the model's square input

_CHECK_SEED_OFFSET = 1_000_003  # scenes of this other seed are never trained on
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_MAX_POSITIONS = 64  # tokens; long captions need 21
_MAX_NEW_TOKENS = 24
_IGNORED_LABEL = -100
_MIRRORED: dict[Place, Place] = {
    "top left": "top right",
    "top right": "top left",
    "bottom left": "bottom right",
    "bottom right": "bottom left",
    "middle": "middle",
}
_CHUNK = 250  # images to render, or to caption, at the same time


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Settings of the training; the defaults are those of the shipped model."""

    seed: int = 0
    num_scenes: int = 40_000
    num_check_scenes: int = 2_000
    num_steps: int = 7_000
    batch_size: int = 64
    peak_lr: float = 2e-3
    weight_decay: float = 0.01
    num_threads: int = 1  # more help little on a small model, and wait on a busy machine
    num_render_processes: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How correct a set of captions is; shares are between 0 and 1."""

    attributes: float  # share of the named attributes that are correct
    by_attribute: dict[str, float]  # the same, for each that was named at all
    num_named: dict[str, int]
    exactly_right: float  # share of the captions that are true short captions
    mean_words: float


def resize(image: Image.Image) -> UInt8[np.ndarray, "64 64 3"]:
    """Resize the whole image to the model's square, as BLIP does."""
    square = image.convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
    return np.asarray(square)


def normalise(pixels: UInt8[np.ndarray, "b 64 64 3"]) -> Float32[torch.Tensor, "b 3 64 64"]:
    """Convert pixels to BLIP's input, with the mean and deviation of CLIP."""
    mean = torch.tensor(OPENAI_CLIP_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(OPENAI_CLIP_STD).view(1, 3, 1, 1)
    return (torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def build_tokenizer() -> BertTokenizer:
    """Return a tokenizer with one token for each word of any scene's captions.

    Characters are tokens too, so that no lower-case English word is unknown
    when the model is fine-tuned on other captions.
    """
    scenes = [scene(0, index) for index in range(2_000)]
    captions = [c for s in scenes for c in (*short_captions(s), *long_captions(s))]
    words = {word for caption in captions for word in caption.split()}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [*_CHARACTERS, *(f"##{character}" for character in _CHARACTERS), *".,'-"]
    tokens += sorted(words - set(tokens))
    start = "[DEC]"  # start token of BLIP's decoder, the last of its vocabulary
    tokens += [start]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return BertTokenizer(vocabulary, bos_token=start, model_max_length=_MAX_POSITIONS)


def build_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    """Return a BLIP captioner of 1.1 M parameters with random weights."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "projection_dim": 128}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4}
    # With BLIP's default of 1e-10 for images a new model does not learn.
    vision = {"image_size": IMAGE_PX, "patch_size": 16, "initializer_range": 0.02}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": _MAX_POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = BlipConfig(
        vision_config={**sizes, **layers, **vision},
        text_config={**sizes, **layers, **text},
        projection_dim=128,
        image_text_hidden_size=128,
    )
    return BlipForConditionalGeneration(config)


def encode(tokenizer: BertTokenizer, captions: list[str]) -> dict[str, torch.Tensor]:
    """Return input_ids, attention_mask and labels, each int64 of shape (b, t).

    As in BLIP, the first token is [DEC], as for ``generate``, and padding has no
    loss.
    """
    encoded = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    input_ids, mask = encoded["input_ids"], encoded["attention_mask"]
    input_ids[:, 0] = tokenizer.bos_token_id
    labels = input_ids.masked_fill(mask == 0, _IGNORED_LABEL)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def _render_chunk(scenes: list[Scene]) -> UInt8[np.ndarray, "n 64 64 3"]:
    return np.stack([resize(render(each)) for each in scenes])


def render_pixels(scenes: list[Scene], num_processes: int) -> UInt8[np.ndarray, "n 64 64 3"]:
    """Render the scenes at the model's size, in parallel processes."""
    chunks = [scenes[start : start + _CHUNK] for start in range(0, len(scenes), _CHUNK)]
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(_render_chunk, chunks)))


def _draw_batch(
    scenes: list[Scene], pixels: UInt8[np.ndarray, "n 64 64 3"], rng: np.random.Generator, size: int
) -> tuple[list[Scene], UInt8[np.ndarray, "b 64 64 3"]]:
    """Draw scenes with replacement, the first half mirrored to double the pool."""
    chosen = rng.integers(len(scenes), size=size)
    shown, batch, half = [scenes[index] for index in chosen], pixels[chosen], size // 2
    batch[:half] = batch[:half, :, ::-1]
    mirrored = [replace(each, place=_MIRRORED[each.place]) for each in shown[:half]]
    return mirrored + shown[half:], batch


def fit(
    model: BlipForConditionalGeneration, tokenizer: BertTokenizer, settings: TrainingSettings
) -> None:
    """Train the model in place; every step draws new scenes and captions."""
    scenes = [scene(settings.seed, index) for index in range(settings.num_scenes)]
    pixels = render_pixels(scenes, settings.num_render_processes)
    logger.info("rendered num_scenes=%d", len(scenes))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.peak_lr, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.peak_lr, total_steps=settings.num_steps, pct_start=0.1
    )
    rng = np.random.default_rng(settings.seed)
    model.train()
    for step in range(settings.num_steps):
        shown, batch = _draw_batch(scenes, pixels, rng, settings.batch_size)
        captions = [short_caption(each, draw=step) for each in shown]
        loss = model(pixel_values=normalise(batch), **encode(tokenizer, captions)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            logger.info("trained step=%d loss=%.3f", step, loss.item())


def caption(
    model: BlipForConditionalGeneration,
    tokenizer: BertTokenizer,
    pixels: UInt8[np.ndarray, "n 64 64 3"],
    do_sample: bool = False,
) -> list[str]:
    """Caption the images, greedily or by sampling from the model."""
    captions: list[str] = []
    model.train(False)
    for start in range(0, len(pixels), _CHUNK):
        tokens = model.generate(
            pixel_values=normalise(pixels[start : start + _CHUNK]),
            num_beams=1,
            do_sample=do_sample,
            max_new_tokens=_MAX_NEW_TOKENS,
        )
        captions += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return captions


def measure(captions: list[str], scenes: list[Scene]) -> Accuracy:
    """Compare captions with their scenes."""
    named: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for text, shown in zip(captions, scenes, strict=True):
        for attribute, value in named_attributes(text):
            named[attribute] += 1
            right[attribute] += getattr(shown, attribute) == value
    exact = [is_exactly_right(text, shown) for text, shown in zip(captions, scenes, strict=True)]
    return Accuracy(
        attributes=round(right.total() / max(named.total(), 1), 4),
        by_attribute={
            name: round(right[name] / named[name], 4) for name in ATTRIBUTES if named[name]
        },
        num_named={name: named[name] for name in ATTRIBUTES},
        exactly_right=round(sum(exact) / len(exact), 4),
        mean_words=round(sum(len(text.split()) for text in captions) / len(captions), 3),
    )


def check(folder: Path, settings: TrainingSettings) -> dict[str, Any]:
    """Reload the saved model and measure it on scenes that are not in its training data.

    Sampled captions also show attributes that greedy ones rarely name.
    """
    model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = BertTokenizer.from_pretrained(folder)
    seed = settings.seed + _CHECK_SEED_OFFSET
    scenes = [scene(seed, index) for index in range(settings.num_check_scenes)]
    pixels = render_pixels(scenes, settings.num_render_processes)
    torch.manual_seed(settings.seed)
    return {
        "greedy": asdict(measure(caption(model, tokenizer, pixels), scenes)),
        "sampled": asdict(measure(caption(model, tokenizer, pixels, do_sample=True), scenes)),
    }


def train(folder: Path, settings: TrainingSettings) -> dict[str, Any]:
    """Train, save as a Hugging Face folder, check, and return the summary.

    The summary is also in ``raycap.json``.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.num_threads)
    start_s = time.perf_counter()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    fit(model, tokenizer, settings)
    duration_s = time.perf_counter() - start_s
    torch.nn.Module.half(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": IMAGE_PX, "width": IMAGE_PX}).save_pretrained(folder)
    summary = {
        **asdict(settings),
        "num_parameters": model.num_parameters(),
        "duration_s": round(duration_s),
        "torch_version": str(torch.__version__),
        "unseen_scenes": check(folder, settings),
    }
    text = json.dumps({"kind": BlipKind.name, "training": summary}, indent=2)
    (folder / "raycap.json").write_text(text + "\n", encoding="utf-8")
    return summary


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the demo's small BLIP.")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--num-steps", type=int, default=TrainingSettings().num_steps)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    summary = train(given.output_dir, TrainingSettings(num_steps=given.num_steps))
    logger.info("finished %s", json.dumps(summary))


if __name__ == "__main__":
    main()
