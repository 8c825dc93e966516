"""EXIF: date and place, and whatever cameras and hostile files write there."""

from io import BytesIO
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from raycap.config import ImageConfig
from raycap.images.decoding import Target, decode
from raycap.images.exif import read_exif

TARGET = Target(width_px=8, height_px=8)


def jpeg(
    base: dict[int, Any] | None = None,
    exif: dict[int, Any] | None = None,
    gps: dict[int, Any] | None = None,
) -> bytes:
    noted = Image.Exif()
    for tag, value in (base or {}).items():
        noted[tag] = value
    for ifd, values in ((ExifTags.IFD.Exif, exif), (ExifTags.IFD.GPSInfo, gps)):
        if values:
            noted.get_ifd(ifd).update(values)
    data = BytesIO()
    Image.new("RGB", (8, 8)).save(data, "JPEG", exif=noted)
    return data.getvalue()


def noted(data: bytes) -> dict[str, str]:
    return decode(data, TARGET, ImageConfig()).exif


DEGREES = (IFDRational(48), IFDRational(51), IFDRational(3030, 100))
WEST = (IFDRational(2), IFDRational(17), IFDRational(40))


def test_date_and_place_are_read() -> None:
    gps = {1: "N", 2: DEGREES, 3: "W", 4: WEST}
    data = jpeg({306: "2022:01:01 00:00:00"}, {36867: "2021:07:04 18:30:00"}, gps)
    assert noted(data) == {"exif.date": "2021-07-04", "exif.gps": "48.85842, -2.29444"}


def test_without_a_date_of_exposure_that_of_the_file_counts() -> None:
    data = jpeg({306: "2022:01:01 00:00:00"}, {36867: "0000:00:00 00:00:00"})
    assert noted(data) == {"exif.date": "2022-01-01"}


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (IFDRational(91), IFDRational(0), IFDRational(0)), 3: "E", 4: WEST},
        {1: "N", 2: (IFDRational(1, 0), IFDRational(0), IFDRational(0)), 3: "E", 4: WEST},
        {1: "N", 2: DEGREES},
    ],
)
def test_an_impossible_place_is_none(gps: dict[int, Any]) -> None:
    assert noted(jpeg(gps=gps)) == {}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as `prepare_process` has it
def test_an_image_without_exif_has_none_and_a_broken_block_does_not_fail_it() -> None:
    assert noted(jpeg()) == {}
    data = jpeg({306: "2022:01:01 00:00:00"}, {36867: "2021:07:04 18:30:00"})
    at = data.index(b"Exif\0\0") + 6
    broken = data[: at + 4] + b"\xff\xff\xff\x7f" + data[at + 8 :]
    assert noted(broken) == {}
    assert read_exif(Image.new("L", (1, 1))) == {}
