"""`raycap caption` from end to end, compared with the scripts that people write instead.

All programs caption the same photos with BLIP-base (the real architecture with random weights, 384
pixels, 20 forced tokens). Each runs in a separate process at two sizes. Its rate is the difference
in images over the difference in time, so start-up does not count.

    bare      the model alone, as raycap runs it, on decoded pixels in memory
    raycap    `raycap caption`
    batches   Pillow, transformers' BlipProcessor and `generate`, in batches of 8
    single    the same, one image at a time
    ray       Ray Data's `read_images`, the processor and `generate` in `map_batches`

    python -m bench.pipeline [--photos FOLDER] [--images 8 24] [--rounds 1] [--beams 3]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import ray.data
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

import raycap
from bench.samples import write_blip_base, write_photos
from raycap.cluster.start import ray_cluster
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.images.decoding import decode
from raycap.models.load import load_captioner
from raycap.models.sources import find_model

BATCH_SIZE = 8
NUM_TOKENS = 20
BARS = {"bare": 0.95, "batches": 2.0, "single": 2.0, "ray": 2.0}
"""Target ratios of raycap's rate to each of the others, with three beams on two idle cores."""


def settings(num_beams: int) -> CaptionConfig:
    """Return the settings for raycap."""
    tokens = {"min_new_tokens": NUM_TOKENS, "max_new_tokens": NUM_TOKENS}
    return validate_config(
        CaptionConfig,
        {
            "generation": {"num_beams": num_beams, **tokens},
            "engine": {"batch_size": BATCH_SIZE},
        },
    )


def bare(photos: Path, model: Path, num_beams: int) -> float:
    """Caption decoded pixels; only the time of the model counts."""
    config = settings(num_beams)
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    source = find_model(str(model))
    captioner = load_captioner(source, config.model, config.generation)
    files = sorted(photos.iterdir())
    pixels = np.stack(
        [decode(file.read_bytes(), source.target, config.image).pixels for file in files]
    )
    started = time.perf_counter()
    for start in range(0, len(pixels), BATCH_SIZE):
        captioner.caption(pixels[start : start + BATCH_SIZE])
    return time.perf_counter() - started


def with_raycap(photos: Path, model: Path, num_beams: int) -> float:
    """Run `raycap caption`, from finding the model to the summary."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as output, ray_cluster():
        raycap.caption(photos, Path(output) / "out", config=settings(num_beams), model=str(model))
    return time.perf_counter() - started


class Plain:
    """A captioner written like the examples of transformers."""

    def __init__(self, model: Path, num_beams: int) -> None:
        self._processor: Any = BlipProcessor.from_pretrained(model)
        loaded: Any = BlipForConditionalGeneration.from_pretrained(model)
        self._model = loaded.eval()
        self._beams = num_beams

    def caption(self, images: list[Any]) -> list[str]:
        """Caption a batch of images."""
        inputs = self._processor(images=images, return_tensors="pt")
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs,
                num_beams=self._beams,
                min_new_tokens=NUM_TOKENS,
                max_new_tokens=NUM_TOKENS,
            )
        texts: list[str] = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return texts


def in_batches(photos: Path, model: Path, num_beams: int, size: int = BATCH_SIZE) -> float:
    """Run a plain script that captions in batches."""
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    plain = Plain(model, num_beams)
    files = sorted(photos.iterdir())
    started = time.perf_counter()
    for start in range(0, len(files), size):
        images = [Image.open(file).convert("RGB") for file in files[start : start + size]]
        plain.caption(images)
    return time.perf_counter() - started


def one_at_a_time(photos: Path, model: Path, num_beams: int) -> float:
    """Run a plain script without batches."""
    return in_batches(photos, model, num_beams, size=1)


class Worker:
    """A batch function as Ray Data's documentation suggests it."""

    def __init__(self, model: str, num_beams: int) -> None:
        torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
        self._plain = Plain(Path(model), num_beams)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Caption a batch."""
        return {"path": batch["path"], "caption": self._plain.caption(list(batch["image"]))}


def with_ray_data(photos: Path, model: Path, num_beams: int) -> float:
    """Run the usual Ray Data pipeline."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as output, ray_cluster():
        images: Any = ray.data.read_images(str(photos), include_paths=True, mode="RGB")
        images.map_batches(
            Worker,
            fn_constructor_args=(str(model), num_beams),
            batch_size=BATCH_SIZE,
            compute=ray.data.ActorPoolStrategy(size=1),
        ).write_parquet(output)
    return time.perf_counter() - started


WAYS: dict[str, Callable[[Path, Path, int], float]] = {
    "bare": bare,
    "raycap": with_raycap,
    "batches": in_batches,
    "single": one_at_a_time,
    "ray": with_ray_data,
}


def seconds(way: str, photos: Path, model: Path, num_beams: int) -> float:
    """Run one program in a separate process; return its seconds."""
    command = [sys.executable, "-m", "bench.pipeline", "--way", way]
    command += ["--photos", str(photos), "--model", str(model), "--beams", str(num_beams)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(done.stdout.split()[-1])


def rate(way: str, folders: tuple[Path, Path], model: Path, num_beams: int) -> float:
    """Return the images per second of one program, without its start-up."""
    few, many = (seconds(way, folder, model, num_beams) for folder in folders)
    counts = [len(list(folder.iterdir())) for folder in folders]
    return (counts[1] - counts[0]) / (many - few)


def take_photos(source: Path | None, folder: Path, count: int) -> Path:
    """Copy photos from a folder, repeating them as needed, or generate some."""
    if source is None:
        write_photos(folder, count)
        return folder
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    folder.mkdir()
    for number in range(count):
        shutil.copy(files[number % len(files)], folder / f"{number:05d}.jpg")
    return folder


def main() -> None:
    """Measure all programs, and print the table and its JSON; with --way, run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, nargs=2, default=[8, 24])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(WAYS[given.way](given.photos, given.model, given.beams))
        return
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "blip-base"
        write_blip_base(model)
        few, many = (
            take_photos(given.photos, Path(name) / f"photos-{count}", count)
            for count in given.images
        )
        for _ in range(given.rounds):
            for way, found in rates.items():
                found.append(rate(way, (few, many), model, given.beams))
                print(f"{way:<8} {found[-1]:.3f} images/s", flush=True)
    ratios = {
        way: statistics.median(
            mine / theirs for mine, theirs in zip(rates["raycap"], rates[way], strict=True)
        )
        for way in BARS
    }
    for way, ratio in ratios.items():
        print(f"raycap over {way:<8} {ratio:.2f}  (target: {BARS[way]})")
    text = json.dumps({"beams": given.beams, "images_per_s": rates, "ratios": ratios})
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
