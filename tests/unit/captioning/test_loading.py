"""The decoder in a child process: same pixels, same errors, and deaths become rows."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
import pytest

from raycap.captioning.loading import Decoder, IsolatedDecoder, RunSpec, load_image
from raycap.config import CaptionConfig, ImageConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.errors import BucketNotFound, ErrorCode, ImageError, StorageError
from raycap.images.decoding import Target
from raycap.models.base import BatchRange
from raycap.models.sources import find_model
from raycap.storage.local import file_version
from raycap.storage.stores import ImageReader
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
    assert "SIGKILL" in error.message
    assert isolated(make_jpeg(seed=3)).height_px == 48


def spec(root: str | None) -> RunSpec:
    return RunSpec(
        output="out",
        config=validate_config(CaptionConfig, {"model": {"name": "stub"}}),
        model=find_model("stub"),
        batches=BatchRange(least=1, most=4),
        torch_threads=1,
        root=root,
    )


def load(path: Path, root: Path | None, size_bytes: int | None = None) -> dict[str, Any]:
    row = {"image_id": path.name, "uri": str(path), "size_bytes": size_bytes}
    decoder = Decoder(TARGET, ImageConfig(), 60.0)
    reader = ImageReader(StorageConfig())
    return load_image(row, None, reader, decoder, spec(None if root is None else str(root)))


def test_a_missing_image_is_a_row_unless_the_source_itself_is_gone(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    photos = tmp_path / "photos"
    make_jpeg(photos / "a.jpg")
    assert load(photos / "a.jpg", photos)["status"] == "ok"
    assert load(photos / "gone.jpg", photos)["error_code"] == "not_found"
    (photos / "a.jpg").unlink()  # as where others were mounted: an empty folder
    with pytest.raises(StorageError) as caught:
        load(photos / "a.jpg", photos)
    assert caught.value.uri == str(photos)
    photos.rmdir()
    with pytest.raises(StorageError) as caught:
        load(photos / "a.jpg", photos)
    assert caught.value.uri == str(photos)
    assert load(photos / "a.jpg", None)["error_code"] == "not_found"  # in a list


def test_the_second_model_gets_no_image_that_has_changed_since_the_first(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    file = tmp_path / "a.jpg"
    make_jpeg(file)
    decoder, reader = Decoder(TARGET, ImageConfig(), 60.0), ImageReader(StorageConfig())
    second = replace(spec(None), below=-1.0)

    def found(etag: str | None, one: RunSpec) -> str | None:
        row = {"image_id": "a.jpg", "uri": str(file), "size_bytes": None, "etag": etag}
        code: str | None = load_image(row, None, reader, decoder, one).get("error_code")
        return code

    assert found(file_version(str(file)), second) is None
    assert found(None, second) is None
    assert found("another", second) == "not_found"
    assert found("another", spec(None)) is None  # the next listing finds the change


def test_a_file_that_is_cut_short_is_transient_and_a_pipe_is_no_file(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    data = make_jpeg(tmp_path / "a.jpg")
    assert load(tmp_path / "a.jpg", tmp_path, len(data))["status"] == "ok"
    assert load(tmp_path / "a.jpg", tmp_path, len(data) + 1)["error_code"] == "network"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert load(tmp_path / "pipe.jpg", None)["error_code"] == "not_found"


@pytest.mark.parametrize(("root", "is_row"), [(None, True), ("s3://other", False)])
def test_a_bucket_that_does_not_exist_is_a_row_of_a_list_only(
    root: str | None, is_row: bool
) -> None:
    class NoBucket(ImageReader):
        def read(self, uri: str, max_bytes: int, size_bytes: int | None = None) -> bytes:
            del max_bytes, size_bytes
            raise BucketNotFound(f"{uri}: there is no such bucket")

    row = {"image_id": "a", "uri": "s3://none/a.jpg", "size_bytes": None}
    decoder, reader = Decoder(TARGET, ImageConfig(), 60.0), NoBucket(StorageConfig())
    if is_row:
        assert load_image(row, None, reader, decoder, spec(root))["error_code"] == "not_found"
        return
    with pytest.raises(BucketNotFound):
        load_image(row, None, reader, decoder, spec(root))
