"""Image decoding: `raycap.images.decoding.decode` against plain Pillow, in time and in pixels.

Plain Pillow is what captioning scripts do: open, convert to RGB, and resize bicubically to the
model's 384 pixels. Both decode the same files in one process, in alternating order. The table
shows the medians of the milliseconds per image and of the ratios per round, and the mean
difference per pixel value over all images and of the image that differs most. The photos are the
files of a folder or, without one, drawn shapes with noise.

`--libraries` adds a table of other decoders (`bench.decoders`).

    python -m bench.decode [--photos FOLDER] [--images 8] [--rounds 5] [--libraries] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bench.decoders import DECODERS, compare_library, describe, missing, use_one_thread
from raycap.config import ImageConfig
from raycap.demo.scenes import write_scenes
from raycap.images.decoding import Target, decode, prepare_process

TARGET = Target(width_px=384, height_px=384)
SIZES = {"12 megapixels": (4000, 3000), "640 x 480": (640, 480)}
FORMATS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WebP": {"quality": 90},
}
BARS = {("12 megapixels", "JPEG"): 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result for one size and format; times are per image."""

    size: str
    format: str
    pillow_ms: float
    ours_ms: float
    ratio: float
    mean_difference: float
    """Mean over all images, in levels from 0 to 255."""
    largest_mean_difference: float
    """Mean of the image that differs most."""
    bar: float | None


def sources(folder: Path | None, count: int, scratch: Path) -> list[Image.Image]:
    """Open the images that the files are made from."""
    if folder is None:
        write_scenes(scratch, count, seed=3)
        folder = scratch
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    return [Image.open(path).convert("RGB") for path in files[:count]]


def encode(image: Image.Image, size: tuple[int, int], kind: str) -> bytes:
    """Return an image of that size as an encoded file, with the fine noise that a camera adds."""
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(0).integers(-4, 5, pixels.shape, dtype=np.int16)
    file = BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(
        file, kind, **FORMATS[kind]
    )
    return file.getvalue()


def plain(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode as captioning scripts do."""
    with Image.open(BytesIO(data)) as image:
        size = (TARGET.width_px, TARGET.height_px)
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def ours(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decode as raycap does."""
    return decode(data, TARGET, ImageConfig()).pixels


def milliseconds(
    work: Callable[[bytes], UInt8[np.ndarray, "h w 3"]], files: Sequence[bytes]
) -> float:
    """Return the mean milliseconds per image."""
    started = time.process_time()
    for data in files:
        work(data)
    return 1000 * (time.process_time() - started) / len(files)


def compare(files: Sequence[bytes], size: str, kind: str, rounds: int) -> Row:
    """Measure one size and format with both decoders."""
    times: dict[str, list[float]] = {"pillow": [], "ours": []}
    jobs = [("pillow", plain), ("ours", ours)]
    for number in range(rounds):
        for name, job in jobs if number % 2 else jobs[::-1]:
            times[name].append(milliseconds(job, files))
    differences = [np.abs(plain(it).astype(int) - ours(it).astype(int)).mean() for it in files]
    pairs = zip(times["pillow"], times["ours"], strict=True)
    return Row(
        size=size,
        format=kind,
        pillow_ms=statistics.median(times["pillow"]),
        ours_ms=statistics.median(times["ours"]),
        ratio=statistics.median(theirs / mine for theirs, mine in pairs),
        mean_difference=float(np.mean(differences)),
        largest_mean_difference=float(np.max(differences)),
        bar=BARS.get((size, kind)),
    )


def other_libraries(images: Sequence[Image.Image], rounds: int) -> list[dict[str, Any]]:
    """Measure the other libraries, print their table, and return its rows."""
    use_one_thread()
    print(
        "size           format  library              decode ms  with resize  ours ms  ours/library"
        "  mean difference (largest, 99.9 %)  adopt"
    )
    rows = []
    for size, pixels in SIZES.items():
        for kind in FORMATS:
            files = [encode(image, pixels, kind) for image in images]
            for decoder in DECODERS:
                if kind not in decoder.formats:
                    continue
                if reason := missing(decoder):
                    print(f"{size:<13}  {kind:<6}  {decoder.name:<19}  {reason}")
                    continue
                row = compare_library(decoder, files, (size, kind), (ours, TARGET), rounds)
                rows.append(asdict(row))
                print(describe(row), flush=True)
    return rows


def main() -> None:
    """Measure all sizes and formats, and print the tables and their JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--libraries", action="store_true", help="also measure other decoders")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    prepare_process(ImageConfig())
    with tempfile.TemporaryDirectory() as name:
        images = sources(arguments.photos, arguments.images, Path(name))
    print("size           format  Pillow ms  ours ms  ratio  target  mean difference (largest)")
    rows = []
    for size, pixels in SIZES.items():
        for kind in FORMATS:
            files = [encode(image, pixels, kind) for image in images]
            row = compare(files, size, kind, arguments.rounds)
            rows.append(row)
            print(
                f"{row.size:<13}  {row.format:<6}  {row.pillow_ms:>9.1f}  {row.ours_ms:>7.1f}"
                f"  {row.ratio:>5.2f}  {row.bar or '':>6}  {row.mean_difference:.2f}"
                f" ({row.largest_mean_difference:.2f})",
                flush=True,
            )
    found = [asdict(row) for row in rows]
    if arguments.libraries:
        found += other_libraries(images, arguments.rounds)
    print(json.dumps(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
