"""Pictures of a page: upright, small, by the rules for images, and never the end of a report."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycap.config import ImageConfig, ReportConfig, StorageConfig
from raycap.images.decoding import prepare_process
from raycap.reporting.pictures import Picture, fetch_thumbnails, thumbnail
from tests.conftest import MakeJpeg, free_port
from tests.support.report_samples import pillow_as_it_was

__all__ = ["pillow_as_it_was"]

CONFIG = ReportConfig(storage=StorageConfig(num_retries=0, timeout_s=1))


@pytest.fixture(autouse=True)
def prepared(pillow_as_it_was: None) -> None:
    del pillow_as_it_was  # undoes what comes now
    prepare_process(CONFIG.image)


def decoded(picture: Picture) -> Image.Image:
    """Open a picture as a browser would."""
    head, _, data = picture.data.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(BytesIO(b64decode(data)))


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((1000, 500), (320, 160)),
        ((500, 1000), (160, 320)),
        ((64, 48), (64, 48)),
        ((9000, 2), (320, 1)),
    ],
)
def test_pictures_keep_their_shape_and_are_never_enlarged(
    size: tuple[int, int], shrunk: tuple[int, int]
) -> None:
    picture = thumbnail(saved(Image.new("RGB", size, "teal")), CONFIG)
    assert (picture.width_px, picture.height_px) == shrunk
    assert decoded(picture).size == shrunk


def test_pictures_are_upright() -> None:
    image = Image.new("RGB", (400, 200), "blue")
    image.paste("red", (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # the file's left is the image's top
    picture = thumbnail(saved(image, "JPEG", exif=exif.tobytes()), CONFIG)
    shown = decoded(picture)
    assert shown.size == (160, 320)
    top, bottom = (np.asarray(shown.getpixel((80, y))) for y in (40, 280))
    assert top[0] > 200 > top[2]
    assert bottom[2] > 200 > bottom[0]


def test_even_white_noise_leaves_room_for_200_in_10_megabytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    small = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    for pixels in (noise, small):
        picture = thumbnail(saved(Image.fromarray(pixels)), CONFIG)
        assert 200 * len(picture.data) < 9_500_000
        assert (picture.width_px, picture.height_px) == (320, 320)


def test_what_cannot_be_decoded_has_a_reason_instead_of_a_picture(make_jpeg: MakeJpeg) -> None:
    reasons = {
        b"": "empty: 0 bytes",
        b"<html>": "unsupported_format: ",
        make_jpeg(size=(640, 480))[:700]: "decode_failed: JPEG",
    }
    for data, reason in reasons.items():
        picture = thumbnail(data, CONFIG)
        assert not picture.data
        assert picture.reason.startswith(reason)


def test_the_limits_of_images_hold(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    image = make_jpeg(tmp_path / "a.jpg", size=(640, 480))
    few = CONFIG.model_copy(update={"image": ImageConfig(max_pixels=1000)})
    assert thumbnail(image, few).reason.startswith("too_large: 640x480")
    short = CONFIG.model_copy(update={"image": ImageConfig(max_bytes=1000)})
    assert fetch_thumbnails([str(tmp_path / "a.jpg")], short)[0].reason.startswith("too_large: ")


def test_images_that_are_gone_have_a_reason(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    make_jpeg(tmp_path / "there.jpg")
    uris = [str(tmp_path / "gone.jpg"), None, str(tmp_path / "there.jpg"), "weird://a/b"]
    gone, nameless, there, weird = fetch_thumbnails(uris, CONFIG)
    assert "gone.jpg: no such file" in gone.reason
    assert nameless.reason == "its address is not known"
    assert there.data
    assert not there.reason
    assert "weird" in weird.reason


def test_a_dead_server_is_not_asked_for_hundreds_of_images() -> None:
    server = f"http://127.0.0.1:{free_port()}"
    pictures = fetch_thumbnails([f"{server}/{n}.jpg" for n in range(200)], CONFIG)
    asked = [picture for picture in pictures if "connection failed" in picture.reason]
    assert 8 <= len(asked) <= 24
    assert pictures[-1].reason == "not tried: 8 others could not be reached"
