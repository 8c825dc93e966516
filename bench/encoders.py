"""Encoders of models trained from scratch, with two orders of pixels in memory.

Compares channels last, raycap's order, with channels first, torch's default. Prints the medians
of the milliseconds per image, in batches of 16, over rounds in which both take turns. `infer` is
a forward pass without gradients, `train` a forward and a backward pass.

    python -m bench.encoders [--batch 16] [--rounds 5] [--json FILE]
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.blip import seconds
from raycap.config import ArchitectureConfig
from raycap.models.scratch.encoders import Encoder, build_encoder, preprocessing_for

SIZES = {"efficientnet-lite0": (96, 224), "resnet50": (224,), "small-cnn": (64,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result for one encoder at one size, in inference or in training."""

    encoder: str
    image_px: int
    is_training: bool
    first_ms: float
    last_ms: float
    ratio: float


def make(name: str, image_px: int, memory_format: torch.memory_format) -> Encoder:
    """Build an encoder with random weights, all of them trainable."""
    architecture = ArchitectureConfig.model_validate(
        {"encoder": name, "image_px": image_px, "pretrained": False, "train_encoder": True}
    )
    torch.manual_seed(0)
    encoder: Any = build_encoder(architecture, preprocessing_for(architecture))
    made: Encoder = encoder.to(memory_format=memory_format)
    return made


def work(encoder: Encoder, pixels: torch.Tensor, *, is_training: bool) -> Callable[[], object]:
    """Return a function for one forward pass, or one training step without the optimizer."""
    encoder.train(is_training)

    def infer() -> None:
        with torch.inference_mode():
            encoder(pixels)

    def learn() -> None:
        torch.autograd.backward(encoder(pixels).square().mean())

    return learn if is_training else infer


def compare(name: str, image_px: int, given: argparse.Namespace, *, is_training: bool) -> Row:
    """Measure both orders, taking turns."""
    pixels = torch.randint(0, 256, (given.batch, 3, image_px, image_px), dtype=torch.uint8)
    formats = {"first": torch.contiguous_format, "last": torch.channels_last}
    jobs = {
        order: work(make(name, image_px, memory_format), pixels, is_training=is_training)
        for order, memory_format in formats.items()
    }
    times: dict[str, list[float]] = {order: [] for order in jobs}
    for number in range(given.rounds + 1):
        for order in jobs if number % 2 else reversed(jobs):
            took = seconds(jobs[order])
            if number:  # the first round warms up
                times[order].append(1000 * took / given.batch)
    pairs = zip(times["first"], times["last"], strict=True)
    return Row(
        encoder=name,
        image_px=image_px,
        is_training=is_training,
        first_ms=statistics.median(times["first"]),
        last_ms=statistics.median(times["last"]),
        ratio=statistics.median(first / last for first, last in pairs),
    )


def main() -> None:
    """Measure all encoders, and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    rows = []
    print("encoder             pixels  mode   first ms  last ms  ratio")
    for name, sizes in SIZES.items():
        for image_px in sizes:
            for is_training in (False, True):
                row = compare(name, image_px, given, is_training=is_training)
                rows.append(row)
                mode = "train" if is_training else "infer"
                print(
                    f"{row.encoder:<18}  {row.image_px:>6}  {mode:<5}"
                    f"  {row.first_ms:>8.2f}  {row.last_ms:>7.2f}  {row.ratio:>5.2f}",
                    flush=True,
                )
    text = json.dumps([asdict(row) for row in rows])
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
