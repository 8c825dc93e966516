"""Pictures of a review: images are read and shrunk when they are shown, and kept on disk."""

import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from multiprocessing import resource_tracker
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from raycap.captioning.output import SOURCE_URI, FinishedOutput
from raycap.captioning.source import held_files, is_held
from raycap.config import ImageConfig, ReviewConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.errors import ImageError, RaycapError
from raycap.images.decoding import prepare_process
from raycap.images.isolation import Isolated, ProcessDied
from raycap.images.thumbnails import thumbnail
from raycap.schema import ETAG, IMAGE_ID
from raycap.storage.address import redact_text
from raycap.storage.stores import ImageReader

_NUM_PROCESSES = 2
_DECODE_LIMIT_S = 30.0
READ_LIMIT_S = 30.0
"""Longest time to read an image for; a run waits longer."""

Shrink = Callable[[tuple[bytes, int]], bytes]
Process = Isolated[tuple[bytes, int], bytes]


class NoPicture(Exception):
    """An image that cannot be shown; the text is the reason."""


class Pictures:
    """Reads and shrinks the images of an output; safe to use from many threads.

    Images are decoded in processes of their own: one that crashes or hangs its decoder is an image
    without a picture, and the page goes on.
    """

    def __init__(self, output: FinishedOutput, config: ReviewConfig, folder: Path) -> None:
        self._output = output
        self._config = config
        limit_s = min(output.config.image_timeout_s, READ_LIMIT_S)  # somebody is waiting
        storage = output.config.model_copy(update={"image_timeout_s": limit_s})
        self._reader = ImageReader(storage)
        self._cache = DiskCache(folder, config.cache_bytes)
        self._processes: SimpleQueue[Process | None] = SimpleQueue()
        for _ in range(_NUM_PROCESSES):
            self._processes.put(Isolated(_Shrinker(config.image)))
        self._dataset: CaptionDataset | None = None
        self._opening = Lock()

    def get(self, row: dict[str, Any], side_px: int) -> bytes:
        """Return a picture of the image of an item, as WebP.

        Args:
            row: the item, as the index has it.
            side_px: its longer side in pixels.

        Raises:
            NoPicture: it cannot be read or decoded, or is no longer the image that was captioned.
        """
        name = f"{picture_name(row)}-{side_px}"
        found = self._cache.get(name)
        if found is None:
            try:
                found = self._shrink(self._read(row), side_px)
            except (ImageError, RaycapError) as error:
                raise NoPicture(redact_text(str(error))) from error
            self._cache.put(name, found)
        return found

    def start(self) -> None:
        """Start the processes ahead: the first images would wait for seconds."""
        # Ctrl-C is for the process that starts them; see `_Shrinker`, which is not made yet. They
        # inherit that it is blocked, but starting Python's resource tracker would unblock it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for _ in range(_NUM_PROCESSES):
                process = self._processes.get()
                if process is not None:
                    process.start()
                self._processes.put(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """End the processes, and what waits for one."""
        for _ in range(_NUM_PROCESSES):
            process = self._processes.get()
            if process is not None:
                process.close()
        self._processes.put(None)

    def _read(self, row: dict[str, Any]) -> bytes:
        dataset = self._output.dataset
        if dataset is not None and is_held(row, dataset):
            return self._held(row, dataset)
        limit = min(self._output.max_image_bytes, self._config.image.max_bytes)
        uri = row[SOURCE_URI]
        data = self._reader.read(uri, limit)
        if self._reader.is_version(uri, row[ETAG], data) is False:
            raise NoPicture("the image has changed since it was captioned")
        return data

    def _held(self, row: dict[str, Any], uri: str) -> bytes:
        with self._opening:
            self._dataset = self._dataset or open_dataset(uri, self._output.config)
        ((_, file),) = held_files([row], self._dataset)
        if isinstance(file, ImageError):
            raise file
        return file

    def _shrink(self, data: bytes, side_px: int) -> bytes:
        process = self._processes.get()
        if process is None:
            self._processes.put(None)
            raise NoPicture("the review has ended")
        try:
            return process((data, side_px), _DECODE_LIMIT_S)
        except ProcessDied as died:
            raise NoPicture(f"decoding the image {died}") from died
        finally:
            self._processes.put(process)


@contextmanager
def open_pictures(output: FinishedOutput, config: ReviewConfig) -> Iterator[Pictures]:
    """Give the pictures of an output, kept in a temporary folder for the length of the block."""
    with TemporaryDirectory(prefix="raycap-review-") as folder:
        pictures = Pictures(output, config, Path(folder))
        try:
            yield pictures
        finally:
            pictures.close()


def picture_name(row: dict[str, Any]) -> str:
    """Return a name that only this version of an image has."""
    parts = (row[IMAGE_ID], row[SOURCE_URI], row[ETAG] or "")
    joined = b"".join(f"{len(part)}:{part}".encode(errors="surrogatepass") for part in parts)
    return blake2b(joined, digest_size=16).hexdigest()


class _Shrinker:
    """Makes the function of a process that shrinks images; picklable."""

    def __init__(self, limits: ImageConfig) -> None:
        self._limits = limits

    def __call__(self) -> Shrink:
        """Prepare the process; return the function."""
        limits = self._limits
        prepare_process(limits)
        # Ctrl-C reaches all processes of a terminal; this one is ended by the one that started it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

        def shrink(asked: tuple[bytes, int]) -> bytes:
            data, side_px = asked
            return thumbnail(data, side_px, limits).data

        return shrink


class DiskCache:
    """Files of a folder, of which those not used for longest are deleted beyond a size."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = Lock()

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return self._num_bytes

    def get(self, name: str) -> bytes | None:
        """Return a file; None if there is none."""
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
            return (self._folder / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Keep a file, if there is room for it."""
        if len(data) > self._max_bytes:
            return
        with self._lock:
            if name in self._sizes:
                return
            while self._num_bytes + len(data) > self._max_bytes:
                oldest, size = self._sizes.popitem(last=False)
                (self._folder / oldest).unlink()
                self._num_bytes -= size
            (self._folder / name).write_bytes(data)
            self._sizes[name] = len(data)
            self._num_bytes += len(data)
