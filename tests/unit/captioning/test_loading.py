"""The decoder in a child process: same pixels, same errors, and deaths become rows."""

import signal
import time
from collections.abc import Iterator
from threading import Thread

import numpy as np
import psutil
import pytest

from raycap.captioning.loading import Decoder, IsolatedDecoder
from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images.decoding import Target
from tests.conftest import MakeJpeg

TARGET = Target(width_px=32, height_px=24)


@pytest.fixture
def isolated() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(TARGET, ImageConfig(max_bytes=1_000_000))
    yield decoder
    decoder.close()


def decoder_process() -> psutil.Process:
    (child,) = [
        process
        for process in psutil.Process().children()
        if "spawn_main" in " ".join(process.cmdline())
    ]
    return child


def test_pixels_and_errors_are_those_of_decoding_here(
    isolated: IsolatedDecoder, make_jpeg: MakeJpeg
) -> None:
    here = Decoder(TARGET, ImageConfig(max_bytes=1_000_000), 60.0)
    data = make_jpeg(seed=4)
    assert np.array_equal(isolated(data).pixels, here(data).pixels)
    for bad in (b"", data[:100], b"<html>", b"x" * 1_000_001):
        with pytest.raises(ImageError) as theirs:
            isolated(bad)
        with pytest.raises(ImageError) as ours:
            here(bad)
        assert str(theirs.value) == str(ours.value)
    assert isolated(data).width_px == 64


def test_an_image_that_the_process_dies_of_is_a_failed_image_and_the_next_one_is_decoded(
    isolated: IsolatedDecoder, make_jpeg: MakeJpeg
) -> None:
    isolated(make_jpeg(seed=1))
    process = decoder_process()
    process.send_signal(signal.SIGSTOP)  # so that it dies over the next image for certain
    found: list[ImageError] = []

    def decode() -> None:
        with pytest.raises(ImageError) as error:
            isolated(make_jpeg(seed=2))
        found.append(error.value)

    thread = Thread(target=decode)
    thread.start()
    time.sleep(0.3)
    process.kill()
    thread.join(timeout=30)
    (error,) = found
    assert error.code is ErrorCode.DECODE_FAILED
    assert error.message == "the decoder failed on this image: its process was ended by SIGKILL"
    assert isolated(make_jpeg(seed=3)).height_px == 48
