"""Other libraries that decode images, compared with raycap's decoding.

Each decodes a file, at the same 1/2, 1/4 or 1/8 as raycap if it can and the file is a large JPEG.
Pillow then resizes the result, so that pixels are comparable; rows with `+ torch` resize by torch's
bicubic filter for uint8, which is antialiased as Pillow's is. All use one thread. raycap's time
includes its checks of hostile files and of EXIF, which the libraries leave out. A library is worth
adopting if decoding and resizing are at least 1.5 times as fast and its pixels keep within the
bounds that `raycap.images.decoding.decode` states.

    pip install simplejpeg "PyTurboJPEG<2" pyvips[binary] opencv-python-headless torchvision

PyTurboJPEG also needs the system's libturbojpeg (`apt-get install libturbojpeg0`); its version 2
needs libjpeg-turbo 3.
"""

import functools
import importlib
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from raycap.images.decoding import DRAFT_MARGIN, Target

MOST_MEAN = 1.3
"""Maximum mean difference of an image, in levels from 0 to 255."""
MOST_AT_999 = 12
"""Maximum of the 99.9th percentile of the differences."""
LEAST_RATIO = 1.5

# The libraries are imported where they are used, because all of them are optional.

Pixels = UInt8[np.ndarray, "h w 3"]


class Decoder(NamedTuple):
    """A library."""

    name: str
    module: str
    decode: Callable[[bytes, int], Pixels]
    """Decodes a file, at one part in so many of its width and height if the library can."""
    formats: Sequence[str]
    resize: Callable[[Pixels, tuple[int, int]], Pixels]
    """Resizes to a width and height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryRow:
    """The result of a library for one size and format; times are per image."""

    size: str
    format: str
    library: str
    decode_ms: float
    total_ms: float
    """With resizing."""
    ours_ms: float
    ratio: float
    """raycap's time over the library's, with resizing: above 1, the library is faster."""
    mean_difference: float
    """From raycap's pixels, in levels from 0 to 255; of the image that differs most."""
    largest_difference: int
    """Of any value of any pixel."""
    difference_at_999: float
    """99.9th percentile, of the image that differs most."""

    @property
    def adopt(self) -> bool:
        """Whether the library is fast and exact enough."""
        is_exact = self.mean_difference <= MOST_MEAN and self.difference_at_999 <= MOST_AT_999
        return is_exact and self.ratio >= LEAST_RATIO


def use_one_thread() -> None:
    """Limit the libraries that have threads of their own; raycap decodes an image per core."""
    os.environ["VIPS_CONCURRENCY"] = "1"
    for module, setting in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
        if importlib.util.find_spec(module):
            getattr(importlib.import_module(module), setting)(1)


def missing(decoder: Decoder) -> str | None:
    """Return why a library cannot be used, if so."""
    try:
        importlib.import_module(decoder.module)
        _probe(decoder)
    except ModuleNotFoundError:
        return f"{decoder.module} is not installed"
    except Exception as error:  # noqa: BLE001  any library's own errors
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:120]
    return None


def reduction(size: tuple[int, int], target: Target) -> int:
    """Return the factor by which raycap reduces a JPEG of that size while decoding."""
    side = DRAFT_MARGIN * max(target.width_px, target.height_px)
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(size) // factor >= side)


def compare_library(
    decoder: Decoder,
    files: Sequence[bytes],
    about: tuple[str, str],
    ours: tuple[Callable[[bytes], Pixels], Target],
    rounds: int,
) -> LibraryRow:
    """Measure one library on files of one size and format.

    Args:
        decoder: The library.
        files: All of the same size.
        about: Name of the size, and format.
        ours: raycap's decoding, and the size that it resizes to.
        rounds: How often both take turns.
    """
    decode_ours, target = ours
    with Image.open(BytesIO(files[0])) as image:
        factor = reduction(image.size, target) if image.format == "JPEG" else 1

    def alone(data: bytes) -> Pixels:
        return decoder.decode(data, factor)

    def whole(data: bytes) -> Pixels:
        return decoder.resize(alone(data), (target.width_px, target.height_px))

    times: dict[str, list[float]] = {"alone": [], "whole": [], "ours": []}
    jobs: dict[str, Callable[[bytes], Pixels]] = {
        "alone": alone,
        "whole": whole,
        "ours": decode_ours,
    }
    differences = [
        np.abs(whole(data).astype(int) - decode_ours(data).astype(int)) for data in files
    ]
    for number in range(rounds):
        for name in jobs if number % 2 else reversed(jobs):
            times[name].append(_milliseconds(jobs[name], files))
    medians = {name: statistics.median(found) for name, found in times.items()}
    pairs = zip(times["ours"], times["whole"], strict=True)
    return LibraryRow(
        size=about[0],
        format=about[1],
        library=decoder.name,
        decode_ms=medians["alone"],
        total_ms=medians["whole"],
        ours_ms=medians["ours"],
        ratio=statistics.median(mine / theirs for mine, theirs in pairs),
        mean_difference=max(float(it.mean()) for it in differences),
        largest_difference=max(int(it.max()) for it in differences),
        difference_at_999=max(float(np.percentile(it, 99.9)) for it in differences),
    )


def describe(row: LibraryRow) -> str:
    """Return a line of the table."""
    return (
        f"{row.size:<13}  {row.format:<6}  {row.library:<19}  {row.decode_ms:>9.1f}"
        f"  {row.total_ms:>11.1f}  {row.ours_ms:>7.1f}  {row.ratio:>12.2f}"
        f"  {row.mean_difference:.2f} ({row.largest_difference}, {row.difference_at_999:.0f})"
        f"  {'yes' if row.adopt else 'no'}"
    )


def _milliseconds(work: Callable[[bytes], object], files: Sequence[bytes]) -> float:
    started = time.process_time()
    for data in files:
        work(data)
    return 1000 * (time.process_time() - started) / len(files)


def _by_pillow(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _by_torch(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    torch: Any = importlib.import_module("torch")
    # A view: torch has a fast version for channels that are adjacent in memory.
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        batch, size=size[::-1], mode="bicubic", antialias=True
    )
    return np.asarray(resized[0].permute(1, 2, 0).numpy())


def _probe(decoder: Decoder) -> None:
    """Decode a small image: some libraries load a part that is missing only then."""
    for kind in decoder.formats:
        file = BytesIO()
        Image.new("RGB", (16, 16)).save(file, kind)
        decoder.decode(file.getvalue(), 1)


def _pillow(data: bytes, factor: int) -> Pixels:
    with Image.open(BytesIO(data)) as image:
        width, height = image.size
        if factor > 1:
            image.draft(None, (width // factor, height // factor))
        return np.array(image.convert("RGB"))  # a copy, as torch takes no read-only arrays


def _simplejpeg(data: bytes, factor: int) -> Pixels:
    simplejpeg: Any = importlib.import_module("simplejpeg")
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if factor == 1:
        return np.asarray(simplejpeg.decode_jpeg(data))
    least = {"min_height": height // factor, "min_width": width // factor}
    return np.asarray(simplejpeg.decode_jpeg(data, **least))


@functools.cache
def _turbo() -> tuple[Any, Any]:
    turbojpeg: Any = importlib.import_module("turbojpeg")
    return turbojpeg.TurboJPEG(), turbojpeg.TJPF_RGB


def _turbojpeg(data: bytes, factor: int) -> Pixels:
    library, colours = _turbo()
    scale = None if factor == 1 else (1, factor)
    return np.asarray(library.decode(data, pixel_format=colours, scaling_factor=scale))


def _torchvision(data: bytes, factor: int) -> Pixels:  # noqa: ARG001  it cannot reduce
    torch: Any = importlib.import_module("torch")
    io: Any = importlib.import_module("torchvision.io")
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    decoded = io.decode_image(encoded, io.ImageReadMode.RGB)
    return np.ascontiguousarray(decoded.permute(1, 2, 0).numpy())


def _vips(data: bytes, factor: int) -> Pixels:
    vips: Any = importlib.import_module("pyvips")
    options = {} if factor == 1 else {"shrink": factor}
    image = vips.Image.new_from_buffer(data, "", access="sequential", **options)
    return np.asarray(image.numpy())


def _opencv(data: bytes, factor: int) -> Pixels:
    cv2: Any = importlib.import_module("cv2")
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2}
    flags |= {4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    flag = flags[factor] | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


_ALL = ("JPEG", "PNG", "WebP")
DECODERS = [
    Decoder("simplejpeg", "simplejpeg", _simplejpeg, ("JPEG",), _by_pillow),
    Decoder("PyTurboJPEG", "turbojpeg", _turbojpeg, ("JPEG",), _by_pillow),
    Decoder("torchvision", "torchvision", _torchvision, _ALL, _by_pillow),
    Decoder("pyvips", "pyvips", _vips, _ALL, _by_pillow),
    Decoder("OpenCV", "cv2", _opencv, _ALL, _by_pillow),
    Decoder("Pillow + torch", "torch", _pillow, _ALL, _by_torch),
    Decoder("simplejpeg + torch", "simplejpeg", _simplejpeg, ("JPEG",), _by_torch),
    Decoder("torchvision + torch", "torchvision", _torchvision, _ALL, _by_torch),
]
