"""Decoding of image files to uint8 pixels of a model's input size.

Every failure is an `ImageError`. Only `prepare_process` changes global state.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images.bombs import HeaderReader, check_cost
from raycap.images.exif import read_exif
from raycap.images.grids import Grid
from raycap.images.other_files import describe_other, is_text, register_heif
from raycap.images.scaling import bits_used, is_deep, scale_to_uint8, with_all_bits

UNREAD_FORMATS = frozenset(
    {
        "EPS",  # runs Ghostscript, a complete programming language, on the file
        "IPTC",  # opens embedded data with every format, including EPS
        "BUFR", "GRIB", "HDF5", "WMF",  # stubs of Pillow: decoded by the system or not at all
        "MPEG",  # recognised by Pillow, never decoded
        "FPX", "MIC",  # need another package: results must not differ by machine
    }
)  # fmt: skip
"""Formats of Pillow that are unsupported here: they run other programs or cannot be decoded."""

DRAFT_MARGIN = 2
"""A JPEG is decoded at 1/2, 1/4 or 1/8 if that is at least this many times the target's size."""

LONG_SIDE_PX = 32_768
"""Images longer than this are reduced by integer factors before they are resampled."""

PNG_TEXT_BYTES = 4 * 2**20
"""Maximum size of a PNG's colour profile or description: printer profiles have 3 MB."""

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_COMMON_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model's input size. Aspect ratios are kept only with `padding` or a `grid`."""

    width_px: int
    """Width of every image, or with a `grid` alone, of a typical one."""
    height_px: int
    """Height, likewise."""
    resample: str = "bicubic"
    """A Pillow filter: nearest, bilinear, bicubic, lanczos, box or hamming."""
    padding: tuple[int, int, int] | None = None
    """RGB colour that fills the size around an image."""
    grid: Grid | None = None
    """Sizes that the model reads. Without `padding`, every image gets one of its own."""

    @property
    def varies(self) -> bool:
        """Whether images have different sizes."""
        return self.grid is not None and self.padding is None

    @property
    def num_bytes(self) -> int:
        """Bytes of one image, uint8 `[H, W, 3]`; of the largest if sizes vary."""
        varying = self.grid if self.varies else None
        return 3 * (varying.max_pixels if varying else self.width_px * self.height_px)

    def size_of(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the width and height to which an image is resized, without its padding.

        Args:
            width_px: Original width of the image.
            height_px: Original height.
        """
        if self.padding is not None:
            scale = min(self.width_px / width_px, self.height_px / height_px)
            return max(1, round(scale * width_px)), max(1, round(scale * height_px))
        if self.grid is not None:
            return self.grid.size_of(width_px, height_px)
        return self.width_px, self.height_px

    def describe(self) -> dict[str, Any]:
        """Return plain values, for fingerprints.

        Padding and grid exist only where they are set, so that older outputs can be continued.
        """
        found = {"width_px": self.width_px, "height_px": self.height_px, "resample": self.resample}
        padding = {} if self.padding is None else {"padding": list(self.padding)}
        return {**found, **padding, **(self.grid.describe() if self.grid else {})}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedImage:
    """The pixels of an image at the target size, and its original size."""

    pixels: UInt8[np.ndarray, "h w 3"]
    """RGB, uint8 `[H, W, 3]` of the target's size; read-only."""
    width_px: int
    """Original width, of the upright image."""
    height_px: int
    """Original height, of the upright image."""
    stored_as: str | None = None
    """`JPEG`, `PNG` or `WEBP` if any program reads these very pixels from the file: it is complete,
    upright, of this size, of 8 bits, opaque and not animated. Otherwise None."""
    exif: dict[str, str] = field(default_factory=dict)
    """What the camera noted, by `exif.EXIF_FIELDS`."""


def prepare_process(config: ImageConfig) -> None:
    """Configure Pillow for `decode`, once per process that decodes.

    Without it `decode` returns the same pixels, but Pillow prints warnings, images of more than
    178,956,970 pixels are `too_large` even if `config` allows them, and PNGs with a colour profile
    or description of more than 1 MB fail.
    """
    Image.init()
    register_heif()
    # Only Pillow's check sees the size of images inside icons in time. It raises above twice this
    # limit and warns above it; in between, `decode` checks.
    Image.MAX_IMAGE_PIXELS = config.max_pixels
    PngImagePlugin.MAX_TEXT_CHUNK = PNG_TEXT_BYTES
    # Ignores that warning, and those about corrupt EXIF blocks and odd TIFF tags, which do not
    # affect the pixels. Set globally, because warnings.catch_warnings is not thread-safe.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(data: bytes, target: Target, config: ImageConfig) -> DecodedImage:
    """Decode the first frame of an image file, upright, in RGB, at the target's size.

    Transparent images are placed on white. 16-bit images are divided by 256, or by less if all
    values fit into 8, 10 or 12 bits. 32-bit and float images are read in the range 0..1 (floats),
    0..255 or 0..65535, the narrowest that contains all values; if none does, they are scaled from
    their minimum to their maximum. Colour profiles are ignored.

    Large JPEGs are decoded at 1/2, 1/4 or 1/8. Compared with full decoding, on 152 photos and
    targets of 32 to 384 pixels, the mean difference of an image is about 0.5 of 255 levels and at
    most 1.3, and its 99.9th percentile at most 12. On white noise the mean reaches 2.7.

    Raises:
        ImageError: `empty`, `too_large`, `unsupported_format` (no known image signature) or
            `decode_failed` (a known signature, but truncated or corrupt; a JPEG that lacks only its
            last two bytes is whole).
    """
    try:
        return _decode(data, target, config)
    except ImageError as error:
        if not _lacks_only_its_end(data, error):
            raise
    mended = _decode(_pixel_data(data) + _JPEG_END, target, config)
    return replace(mended, stored_as=None)


def _decode(data: bytes, target: Target, config: ImageConfig) -> DecodedImage:
    resample = Image.Resampling[target.resample.upper()]
    _check_length(data, config)
    with _pillow_errors(data, config):
        image = Image.open(reader := HeaderReader(data), formats=_formats())
    with image:
        with _pillow_errors(data, config, image.format):
            size = image.size  # an IM file can have any number of values here
            _check_size(size, config)
            check_cost(image, data, config)
            if image.format != "PNG":  # PNGs consist of chunks up to their end
                reader.stop_counting()
            # The longer side for both dimensions: only EXIF, read later, tells the orientation.
            side = DRAFT_MARGIN * max(target.size_of(*size))
            draft = image.draft(None, (side, side))
            # A reduced JPEG is rounded up to whole pixels: the box of the draft is its true edge.
            edge = draft[1][2:] if draft and image.size != size else None
            has_deep_colour = is_deep(image)
            image.load()
        orientation = _orientation(image)
        exif = read_exif(image)
        with _pillow_errors(data, config, image.format):
            is_plain = orientation == 1 and not has_deep_colour and _is_plain(image)
            whole = with_all_bits(image, data) if has_deep_colour else image
            width_px, height_px = size[::-1] if orientation in _SIDEWAYS else size
            fitted = target.size_of(width_px, height_px)
            rgb = _resize(_flatten(whole), fitted, resample, edge, orientation)
            padded = _pad(rgb, target)
    return DecodedImage(
        pixels=np.asarray(padded),
        width_px=width_px,
        height_px=height_px,
        stored_as=image.format if is_plain and padded.size == size == image.size else None,
        exif=exif,
    )


def _is_plain(image: Image.Image) -> bool:
    if image.format not in _COMMON_FORMATS or image.mode not in ("L", "RGB"):
        return False
    return getattr(image, "n_frames", 1) == 1 and not image.has_transparency_data


def _pad(image: Image.Image, target: Target) -> Image.Image:
    """Centre an image on the target's colour; without one, return it unchanged."""
    size = (target.width_px, target.height_px)
    if target.padding is None or image.size == size:
        return image
    padded = Image.new("RGB", size, target.padding)
    padded.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return padded


_JPEG_END = b"\xff\xd9"
_STUFFING = (b"\x55" * 64, b"\xaa" * 64)


def _lacks_only_its_end(data: bytes, error: ImageError) -> bool:
    """Whether a file is a JPEG with all of its pixels, but without the marker that ends it.

    Its decoder fills missing pixels without a word. If none is missing, then bytes after the last
    one change nothing; otherwise they are taken for pixels.
    """
    is_cut = isinstance(error.__cause__, OSError) and "truncated" in str(error.__cause__)
    if not is_cut or not data.startswith(b"\xff\xd8"):
        return False
    try:
        data = _pixel_data(data)
        as_is = _all_pixels(data + _JPEG_END)
        return all(np.array_equal(as_is, _all_pixels(data + m + _JPEG_END)) for m in _STUFFING)
    except Exception:  # noqa: BLE001  as in _pillow_errors
        return False


def _pixel_data(data: bytes) -> bytes:
    """Drop half a marker from the end."""
    return data.removesuffix(_JPEG_END[:1])


def _all_pixels(data: bytes) -> UInt8[np.ndarray, "..."]:
    with Image.open(BytesIO(data), formats=["JPEG", "MPO"]) as image:
        return np.asarray(image)


def _check_length(data: bytes, config: ImageConfig) -> None:
    if not data:
        raise ImageError(ErrorCode.EMPTY, "0 bytes")
    if len(data) > config.max_bytes:
        limit = f"image.max_bytes={config.max_bytes:,}"
        raise ImageError(ErrorCode.TOO_LARGE, f"{len(data):,} bytes, more than {limit}")


def _check_size(size: tuple[int, int], config: ImageConfig) -> None:
    width_px, height_px = size
    if width_px * height_px > config.max_pixels:
        count = f"{width_px}x{height_px} = {width_px * height_px:,} pixels"
        reason = f"{count}, more than image.max_pixels={config.max_pixels:,}"
        raise ImageError(ErrorCode.TOO_LARGE, reason)


@contextmanager
def _pillow_errors(
    data: bytes, config: ImageConfig, opened_as: str | None = None
) -> Iterator[None]:
    """Turn any error of Pillow into an `ImageError`; wrap only calls of Pillow."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        excess = _brief(error).partition(", could be")[0]
        reason = f"{excess} (image.max_pixels={config.max_pixels:,})"
        raise ImageError(ErrorCode.TOO_LARGE, reason) from error
    # For hostile bytes Pillow's plugins raise anything: OSError, SyntaxError, struct.error,
    # IndexError, KeyError, MemoryError...
    except Exception as error:
        kind = opened_as or _signature(data)  # some formats, such as TGA, have no signature
        if kind is None:
            raise ImageError(ErrorCode.UNSUPPORTED_FORMAT, describe_other(data)) from error
        reason = _brief(error) if opened_as else _brief_of_header(error, data)
        raise ImageError(ErrorCode.DECODE_FAILED, f"{kind}: {reason}") from error


def _brief(error: Exception) -> str:
    # Quotations of the file are left out.
    text = _QUOTATION.sub("...", " ".join(str(error).split()))
    text = text if len(text) <= 160 else f"{text[:157]}..."
    return text or type(error).__name__


_QUOTATION = re.compile(r"""\bb?(["']).*\1|(["']).*\2""")


def _brief_of_header(error: Exception, data: bytes) -> str:
    """Return the reason why a file is not opened.

    Text that is no image at all can begin like one, such as "P3" or "BM", and Pillow quotes it.
    """
    # Pillow's text would contain the address of the buffer, but equal images must give equal rows.
    if isinstance(error, UnidentifiedImageError) or is_text(data[:4]):
        return "the header cannot be read"
    return _brief(error)


def _formats() -> tuple[str, ...]:
    Image.init()
    register_heif()
    return tuple(name for name in Image.ID if name not in UNREAD_FORMATS)


def _signature(data: bytes) -> str | None:
    """Return the format of the first bytes, by Pillow's own tests; None if there is none."""
    # Padded, because Pillow's tests index into the 16 bytes without checking the length.
    prefix = data[:16].ljust(16, b"\0")
    for name in _formats():
        accept = Image.OPEN[name][1]
        # A string means that this build of Pillow cannot read the format.
        if accept and (answer := accept(prefix)) and not isinstance(answer, str):
            return name
    return None


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an image, which must be loaded for its EXIF to be complete."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - the parser raises anything; pixels do not need it
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSES else 1


def _flatten(image: Image.Image) -> Image.Image:
    """Convert to an opaque 8-bit image, RGB or L, with the same appearance."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.format == "PPM" and image.mode == "I":
            # Pillow's 16-bit PGM: dark images must not be read as 8-bit ones.
            return Image.fromarray(scale_to_uint8(values.astype(np.uint16)))
        return Image.fromarray(scale_to_uint8(values, bits_used(values)))
    # Pillow drops the palette object of ICNS images, and then has_transparency_data fails.
    if (image.mode != "P" or image.palette) and image.has_transparency_data:
        # Through LA, because Pillow cannot convert premultiplied grey to RGBA directly.
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    # Grey stays grey until it is resized: three equal channels give the same result. Others must be
    # RGB first: palettes cannot be averaged, and CMYK, LAB and HSV are not linear in RGB.
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    edge: tuple[float, float] | None,
    orientation: int,
) -> Image.Image:
    """Resize the area within `edge` (None for all) to an upright size, in RGB."""
    # Resampling needs 32 bytes of weights per pixel of length, and before Pillow 13 an image with
    # the target's width and the old height: 150 GB for an image of 1 x 100,000,000.
    gap = 3.0 if max(image.size) > LONG_SIDE_PX else None
    if edge is None:
        # Rotated first, so that pixels equal those of a file stored upright: Pillow rounds between
        # its two passes, and their order depends on the shape.
        return _turn(image, orientation).resize(size, resample, None, gap).convert("RGB")
    # A reduced JPEG is rotated after resizing: that is cheap and keeps its edge unrotated.
    size = size[::-1] if orientation in _SIDEWAYS else size
    return _turn(image.resize(size, resample, (0, 0, *edge), gap).convert("RGB"), orientation)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TRANSPOSES[orientation]) if orientation > 1 else image
