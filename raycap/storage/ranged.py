"""A stored object as a seekable file, so that only the needed parts are read."""

from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import Any, Protocol


class ReadsRanges(Protocol):
    """The method that `RangedFile` needs of a store, or of an `ImageReader`."""

    def read_range(self, key: str, offset_bytes: int, num_bytes: int, /) -> bytes:
        """Read `num_bytes` of an object from an offset on; fewer, or none, where it ends."""


class RangedFile(RawIOBase):
    """An object read by ranges; `num_bytes` is its size. Not safe to use from several threads."""

    def __init__(self, store: ReadsRanges, key: str, num_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._num_bytes = num_bytes
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move to an offset from the start, the present position, or the end."""
        base = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._num_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes, or all that are left; raises as `Store.read_range` does."""
        left = max(0, self._num_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        data = self._store.read_range(self._key, self._position, wanted)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as fit into a buffer, for `BufferedReader`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
