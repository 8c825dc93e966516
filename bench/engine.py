"""What the pipeline costs: images/s of `raycap.caption` over the same model in a bare loop.

Both caption the same images with BLIP-base of the real architecture and random weights, in one
process tree, one after the other, several times; the table shows each round's ratio and the
median. The bare loop gets its pixels decoded beforehand and does nothing but call the model.

    python -m bench.engine [--images 48] [--rounds 3] [--beams 1]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

import raycap
from raycap.bulk.cluster import ray_cluster, threads_per_actor
from raycap.config import CaptionConfig, validate_config
from raycap.images import decode
from raycap.models.load import load_captioner
from raycap.models.sources import find_model

BATCH_SIZE = 8


def write_blip_base(folder: Path) -> None:
    """Save BLIP-base with random weights: its captions are noise, its arithmetic is real."""
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
    """Write JPEGs of a common photo size."""
    folder.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480)).save(folder / f"{number:05d}.jpg", quality=90)


def bare_loop(photos: Path, model: Path, config: CaptionConfig) -> float:
    """Return images/s of the model alone, on pixels that are there already."""
    torch.set_num_threads(threads_per_actor(config.engine, 1))
    source = find_model(str(model))
    captioner = load_captioner(source, config.model, config.generation)
    files = sorted(photos.iterdir())
    images = [decode(file.read_bytes(), source.target, config.image).pixels for file in files]
    pixels = np.stack(images)
    captioner.caption(pixels[:1])
    started = time.perf_counter()
    for start in range(0, len(pixels), BATCH_SIZE):
        captioner.caption(pixels[start : start + BATCH_SIZE])
    return len(pixels) / (time.perf_counter() - started)


def pipeline(photos: Path, model: Path, output: Path, config: CaptionConfig) -> tuple[float, float]:
    """Return images/s of the whole run, start-up included, and from the first rows on."""
    arrivals: list[tuple[float, int]] = []
    started = time.perf_counter()
    with ray_cluster():
        connected = time.perf_counter()
        raycap.caption(
            photos,
            output,
            config=config,
            model=str(model),
            on_progress=lambda p: arrivals.append((time.perf_counter(), p.num_done)),
        )
    ended, count = arrivals[-1]
    first, before = arrivals[0]
    steady = (count - before) / (ended - first)
    del connected
    return count / (time.perf_counter() - started), steady


def main() -> None:
    """Run the rounds and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beams", type=int, default=1)
    arguments = parser.parse_args()
    config = validate_config(
        CaptionConfig,
        {
            "generation": {"num_beams": arguments.beams, "min_new_tokens": 20},
            "engine": {"batch_size": BATCH_SIZE},
        },
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, photos = folder / "blip-base", folder / "photos"
        write_blip_base(model)
        write_photos(photos, arguments.images)
        rounds = []
        print(
            f"{'round':>5} {'bare images/s':>14} {'pipeline':>9} {'ratio':>6} {'with start-up':>14}"
        )
        for number in range(arguments.rounds):
            bare = bare_loop(photos, model, config)
            whole, steady = pipeline(photos, model, folder / f"out-{number}", config)
            rounds.append({"bare": bare, "pipeline": steady, "whole": whole})
            print(f"{number:>5} {bare:>14.3f} {steady:>9.3f} {steady / bare:>6.3f} {whole:>14.3f}")
    ratio = statistics.median(r["pipeline"] / r["bare"] for r in rounds)
    print(f"median ratio {ratio:.3f} (bar: 0.9)")
    print(json.dumps({"rounds": rounds, "median_ratio": ratio}))


if __name__ == "__main__":
    main()
