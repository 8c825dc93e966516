"""What the pipeline costs: images/s of `raycap.caption` over the same model in a bare loop.

Both caption the same images with BLIP-base of the real architecture and random weights, in one
process tree, one after the other, several times; the table shows each round's ratio and the
median. The bare loop gets its pixels decoded beforehand and does nothing but call the model. The
pipeline runs at two sizes: the images between them over the time between them is its rate, and
what is left of the smaller run is the start-up of Ray, the workers and the model.

    python -m bench.engine [--images 16 80] [--rounds 3] [--beams 1]
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
from raycap.bulk.resources import threads_per_actor
from raycap.cluster import ray_cluster
from raycap.config import CaptionConfig
from raycap.images import decode
from raycap.models.load import load_captioner
from raycap.models.sources import find_model
from raycap.settings import validate_config

BATCH_SIZE = 8
Round = dict[str, float]


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


def wall_s(photos: Path, model: Path, output: Path, config: CaptionConfig) -> float:
    """Return the seconds that a whole run takes, from finding the model to the summary."""
    started = time.perf_counter()
    with ray_cluster():
        raycap.caption(photos, output, config=config, model=str(model))
    return time.perf_counter() - started


def compare(folder: Path, number: int, counts: tuple[int, int], config: CaptionConfig) -> Round:
    """Run one round: the bare loop, and the pipeline at both sizes."""
    model = folder / "blip-base"
    few, many = (folder / f"photos-{count}" for count in counts)
    bare = bare_loop(many, model, config)
    short = wall_s(few, model, folder / f"few-{number}", config)
    long = wall_s(many, model, folder / f"many-{number}", config)
    marginal = (counts[1] - counts[0]) / (long - short)
    return {
        "bare": bare,
        "pipeline": marginal,
        "ratio": marginal / bare,
        "start_up_s": short - counts[0] / marginal,
    }


def main() -> None:
    """Run the rounds and print the table and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=[16, 80])
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
    counts = (arguments.images[0], arguments.images[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_blip_base(folder / "blip-base")
        for count in counts:
            write_photos(folder / f"photos-{count}", count)
        rounds: list[Round] = []
        print("round  bare images/s  pipeline images/s  ratio  start-up s")
        for number in range(arguments.rounds):
            found = compare(folder, number, counts, config)
            rounds.append(found)
            print(
                f"{number:>5}  {found['bare']:>13.3f}  {found['pipeline']:>17.3f}"
                f"  {found['ratio']:>5.3f}  {found['start_up_s']:>10.1f}",
                flush=True,
            )
    ratio = statistics.median(found["ratio"] for found in rounds)
    print(f"median ratio {ratio:.3f} (bar: 0.9)")
    print(json.dumps({"rounds": rounds, "median_ratio": ratio}))


if __name__ == "__main__":
    main()
