"""Images that a Parquet file contains, as `datasets` stores them: by their row.

An annotation gives the row of such an image where it gives the position of a member of a tar.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.config import StorageConfig
from raycap.datasets.readers.files import open_file
from raycap.errors import ErrorCode, ImageError

SUFFIX = ".parquet"
BYTES = "bytes"

_BATCH_ROWS = 16
_BUFFER_BYTES = 1_048_576
_NUM_KEPT = 64  # threads ask for rows almost in order


def image_path(field: pa.Field) -> str | None:
    """Return the path of the bytes of images in a column; None if it contains none."""
    kind = field.type
    if pa.types.is_struct(kind) and kind.get_field_index(BYTES) >= 0:
        kind, path = kind.field(BYTES).type, f"{field.name}.{BYTES}"
    else:
        path = field.name
    return path if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


class EmbeddedImages:
    """Reads images of Parquet files; rows in ascending order are read about once.

    Few images are in memory, whatever the size of row groups. Shared by threads.
    """

    def __init__(self, config: StorageConfig, names: tuple[str, ...]) -> None:
        """Keep how files are opened.

        Args:
            config: Of stores.
            names: Names of columns of images in lower case; the first that exists is read.
        """
        self._lock = Lock()
        self._open = lru_cache(maxsize=2)(lambda uri: _Images(uri, config, names))

    def read(self, uri: str, row: int) -> bytes:
        """Return the image file in a row.

        Raises:
            ImageError: there is none, or the file is damaged.
            StorageError: it cannot be read.
        """
        with self._lock:
            try:
                image = self._open(uri).read(row)
            except (pa.ArrowException, OSError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                raise ImageError(
                    ErrorCode.DECODE_FAILED, f"row {row + 1} of {uri} cannot be read: {reason}"
                ) from error
        if image is None:
            raise ImageError(ErrorCode.EMPTY, f"row {row + 1} of {uri} has no image")
        return image


class _Images:
    """The images of one file, read from row to row."""

    def __init__(self, uri: str, config: StorageConfig, names: tuple[str, ...]) -> None:
        self._file = pq.ParquetFile(open_file(uri, config).open(), buffer_size=_BUFFER_BYTES)
        fields = {field.name.lower(): field for field in reversed(self._file.schema_arrow)}
        paths = [image_path(fields[name]) for name in names if name in fields]
        self._column = next(path for path in paths if path is not None)
        footer = self._file.metadata
        sizes = (footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        self._ends = list(accumulate(sizes))
        self._next = 0
        self._rows = self._from(0)
        self._kept: dict[int, bytes | None] = {}

    def read(self, row: int) -> bytes | None:
        if row in self._kept:
            return self._kept[row]
        group = bisect_right(self._ends, row)
        if group == len(self._ends):
            raise ValueError("the file has fewer rows")
        begin = self._ends[group - 1] if group else 0
        is_soon = self._next <= row < self._next + _NUM_KEPT
        if not (is_soon or begin <= self._next <= row):
            self._rows, self._next = self._from(group), begin
        while self._next <= row:
            self._kept[self._next] = next(self._rows)
            self._next += 1
            if len(self._kept) > _NUM_KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[row]

    def _from(self, group: int) -> Iterator[bytes | None]:
        """Yield the images from the beginning of a row group on."""
        for batch in self._file.iter_batches(
            batch_size=_BATCH_ROWS,
            row_groups=list(range(group, len(self._ends))),
            columns=[self._column],
        ):
            column = batch.column(0)
            found = column.field(BYTES) if pa.types.is_struct(column.type) else column
            yield from found.to_pylist()
