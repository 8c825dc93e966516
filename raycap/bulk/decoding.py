"""Decoding for the load stage: watched for hangs, or in a process of its own after a death."""

from functools import partial
from threading import Lock

from raycap.config import ImageConfig
from raycap.errors import ErrorCode, ImageError
from raycap.images import DecodedImage, Target, decode, prepare_process
from raycap.isolation import HangWatch, Isolated, ProcessDied

_LIMIT_S = 30.0  # of one image, alone: the largest that `image.max_pixels` allows takes less


class Decoder:
    """Decodes images in this process, in many threads; a hang ends the process."""

    def __init__(self, target: Target, config: ImageConfig, hang_timeout_s: float) -> None:
        prepare_process(config)
        self._target = target
        self._config = config
        self._watch = HangWatch(hang_timeout_s)

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image. Raises ImageError."""
        with self._watch():
            return decode(data, self._target, self._config)

    def close(self) -> None:
        """Leave nothing behind."""


class IsolatedDecoder:
    """Decodes images one at a time in a process of its own: an image that it dies of is a row."""

    def __init__(self, target: Target, config: ImageConfig) -> None:
        self._process: Isolated[bytes, DecodedImage] = Isolated(
            partial(_prepared_decode, target, config)
        )
        self._lock = Lock()

    def __call__(self, data: bytes) -> DecodedImage:
        """Decode one image. Raises ImageError."""
        with self._lock:
            try:
                return self._process(data, _LIMIT_S)
            except ProcessDied as error:
                raise ImageError(
                    ErrorCode.DECODE_FAILED, f"the decoder did not survive it: {error}"
                ) from error

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _prepared_decode(target: Target, config: ImageConfig) -> "partial[DecodedImage]":
    prepare_process(config)
    return partial(decode, target=target, config=config)
