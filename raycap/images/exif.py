"""What a camera has noted in an image file: when and where it was taken."""

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from PIL import ExifTags, Image

DATE = "exif.date"
GPS = "exif.gps"
EXIF_FIELDS = (DATE, GPS)

_DATES = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized)
_DATE = re.compile(r"\s*(\d{4})[:\-/.](\d{2})[:\-/.](\d{2})")
_NUM_DIGITS = 5  # of a degree: about a metre


def read_exif(image: Image.Image) -> dict[str, str]:
    """Return the EXIF_FIELDS of an open image that it has.

    The date, such as `2021-07-04`, is that of the exposure, or else of the file. A position is
    latitude and longitude in degrees, such as `48.8584, 2.2945`, south and west negative.
    """
    try:
        exif = image.getexif()
        taken = exif.get_ifd(ExifTags.IFD.Exif)
        dates = [*map(taken.get, _DATES), exif.get(ExifTags.Base.DateTime)]
        place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # noqa: BLE001  the parser raises anything; pixels do not need it
        return {}
    found = {DATE: next(filter(None, map(_date, dates)), None), GPS: _position(place)}
    return {name: value for name, value in found.items() if value is not None}


def _date(value: Any) -> str | None:
    match = _DATE.match(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        return date(*map(int, match.groups())).isoformat()
    except ValueError:  # 0000:00:00, of a camera whose clock was never set
        return None


def _position(place: Mapping[int, Any]) -> str | None:
    latitude = _degrees(place, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, 90.0)
    longitude = _degrees(place, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, 180.0)
    return None if latitude is None or longitude is None else f"{latitude}, {longitude}"


def _degrees(place: Mapping[int, Any], angle: int, side: int, most: float) -> float | None:
    parts, letter = place.get(angle), place.get(side)
    if not isinstance(parts, tuple) or len(parts) != 3:  # degrees, minutes, seconds
        return None
    try:
        degrees, minutes, seconds = map(float, parts)
    except (ArithmeticError, TypeError, ValueError):  # whatever the file holds there
        return None
    found = degrees + minutes / 60 + seconds / 3_600
    if not math.isfinite(found) or not 0 <= found <= most:
        return None
    is_negative = isinstance(letter, str) and letter.strip("\0 ").upper() in ("S", "W")
    return round(-found if is_negative else found, _NUM_DIGITS)
