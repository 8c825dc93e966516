"""Parts of a caption dataset: names, tables, reading and writing.

Rows are written in small row groups, so that one image can be read without the whole part, and
text without the images.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raycap import schema
from raycap.errors import DatasetError
from raycap.results.dataset import WORK
from raycap.storage.base import KEY, Store
from raycap.storage.parts import part_key
from raycap.storage.ranged import RangedFile

PLANNED_PARTS = f"{WORK}plan/"
MOVES = f"{WORK}moves/"
ANSWERED_PARTS = f"{WORK}answered/"
"""Results of complete parts: every image is stored or permanently rejected."""
PARTIAL_PARTS = f"{WORK}partial/"
"""Results of parts with images that failed for a transient reason."""

IS_GIVEN = "is_given"
RANK = "rank"
STORED_IN = "stored_in"
WORDS = "words"
NUM_IMAGES = "num_images"
NUM_CAPTIONS = "num_captions"
FIRST = "first"
LAST = "last"

PLANNED = pa.schema(
    [
        schema.ANNOTATIONS.field(schema.IMAGE_ID),
        schema.ANNOTATIONS.field(schema.SOURCE_ID),
        pa.field(schema.URI, pa.string(), nullable=False),
        schema.ANNOTATIONS.field(schema.OFFSET_BYTES),
        schema.ANNOTATIONS.field(schema.SIZE_BYTES),
        pa.field(schema.SPLIT, pa.string(), nullable=False),
        pa.field(IS_GIVEN, pa.bool_(), nullable=False),
        pa.field(RANK, pa.uint64(), nullable=False),
        schema.DATASET.field(schema.CAPTIONS_LIST),
    ]
)
"""One image to fetch. `split` is given by the source if `is_given`, and by hash otherwise; `rank`
determines the subsets that contain it."""

ANSWERED = pa.schema(
    [
        *(PLANNED.field(name) for name in (schema.IMAGE_ID, schema.SPLIT, IS_GIVEN, RANK)),
        pa.field(STORED_IN, pa.string()),
        pa.field(schema.DIGEST, pa.string()),
        pa.field(schema.WIDTH_PX, pa.int32()),
        pa.field(schema.HEIGHT_PX, pa.int32()),
        pa.field(schema.NUM_BYTES, pa.int64()),
        pa.field(schema.NUM_TOKENS, pa.list_(pa.int32()), nullable=False),
        pa.field(WORDS, pa.list_(pa.string()), nullable=False),
        pa.field(schema.ERROR_CODE, pa.string()),
        pa.field(schema.ERROR_MESSAGE, pa.string()),
        pa.field(schema.URI, pa.string()),
        pa.field(schema.CAPTIONS_LIST, pa.list_(pa.string()), nullable=False),
    ]
)
"""The result of a planned image: `stored_in` is the split that contains its row; otherwise there is
an error code, with `uri` and `captions`. `num_bytes` is the size of the original file, `num_tokens`
the length of each caption; `words` are the tokens that no earlier row of the part has."""

MOVED = pa.schema([PLANNED.field(schema.IMAGE_ID), PLANNED.field(schema.SPLIT)])
"""An image that moves to another split than planned, because of a duplicate."""

PART_INDEX = pa.schema(
    [
        pa.field(KEY, pa.string(), nullable=False),
        pa.field(schema.SPLIT, pa.string(), nullable=False),
        pa.field(schema.PART, pa.int64(), nullable=False),
        pa.field(NUM_IMAGES, pa.int64(), nullable=False),
        pa.field(NUM_CAPTIONS, pa.int64(), nullable=False),
        pa.field(schema.NUM_BYTES, pa.int64(), nullable=False),
        pa.field(FIRST, pa.string(), nullable=False),
        pa.field(LAST, pa.string(), nullable=False),
    ]
)
"""One part of a complete dataset; sorted by number, then split."""

_ROW_GROUP_BYTES = 8_000_000
_ROW_GROUP_ROWS = 4_096
_ROW_BYTES = 200  # of columns with a fixed size, approximately
_PAGE_VALUES = 16


def encode_table(table: pa.Table, form: pa.Schema) -> bytes:
    """Return a small table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(form), sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_table(store: Store, key: str, form: pa.Schema) -> pa.Table:
    """Read a small table.

    Raises:
        DatasetError: it is damaged.
        StorageError: the store refuses, or it does not exist.
    """
    data = store.read(key)
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return file.read(form.names).select(form.names).cast(form)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(store, key) from error


def damaged(store: Store, key: str) -> DatasetError:
    """Return the error for a damaged file of a dataset."""
    return DatasetError(
        f"{store.address(key)}: is damaged or not a file of raycap; restore the file, or prepare "
        "the dataset again in a new output",
        uri=store.address(key),
    )


class RowGroupWriter:
    """Writes rows to a Parquet file in row groups of about 8 MB, one of which is in memory."""

    def __init__(self, path: Path, form: pa.Schema) -> None:
        self._form = form
        self._writer = pq.ParquetWriter(
            path,
            form,
            compression={name: _compression(name) for name in form.names},
            use_dictionary=[name for name in form.names if name != schema.BYTES],
            write_page_checksum=True,
            # Pages end only between batches of values, which by default are 1,024 images.
            write_batch_size=_PAGE_VALUES if schema.BYTES in form.names else None,
        )
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def write(self, row: dict[str, Any], num_bytes: int) -> None:
        """Append a row; `num_bytes` is the size of its texts and bytes."""
        self._rows.append(row)
        self._num_bytes += num_bytes + _ROW_BYTES
        if self._num_bytes >= _ROW_GROUP_BYTES or len(self._rows) == _ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=self._form)
            self._writer.write_table(table, row_group_size=len(table))
        self._rows, self._num_bytes = [], 0


def _compression(column: str) -> str:
    return "none" if column == schema.BYTES else "zstd"  # image files are compressed already


class SplitWriter:
    """Writes the rows of one part, one file per split; use as a context manager."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._number = number
        self._folder = tempfile.TemporaryDirectory(prefix="raycap-part-")
        self._writers: dict[str, tuple[Path, RowGroupWriter]] = {}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def write(self, row: dict[str, Any]) -> None:
        """Append a DATASET row, in the order of ids."""
        split = row[schema.SPLIT]
        if split not in self._writers:
            path = Path(self._folder.name) / f"{split}.parquet"
            self._writers[split] = (path, RowGroupWriter(path, schema.DATASET))
        captions: list[str] = row[schema.CAPTIONS_LIST]
        num_bytes = len(row[schema.BYTES] or b"") + sum(map(len, captions))
        self._writers[split][1].write(row, num_bytes)

    def commit(self, before: Iterable[str]) -> None:
        """Upload every file, and delete those of splits without rows.

        Args:
            before: splits that had rows of this part before.
        """
        for split, (path, writer) in self._writers.items():
            writer.close()
            self._store.upload(part_key(f"{split}/", self._number), path)
        for split in set(before) - self._writers.keys():
            self._store.delete(part_key(f"{split}/", self._number))


def read_part(store: Store, key: str, num_bytes: int, columns: list[str]) -> Iterator[pa.Table]:
    """Read columns of a part of `num_bytes`: as one table or, with images, per row group.

    Raises:
        DatasetError: it is damaged.
        StorageError: the store refuses, or it does not exist.
    """
    with open_part(store, key, num_bytes) as file:
        if schema.BYTES not in columns:
            yield file.read(columns).select(columns)
            return
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns).select(columns)


@contextmanager
def open_part(store: Store, key: str, num_bytes: int) -> Iterator[pq.ParquetFile]:
    """Open a part of `num_bytes`; its footer is read now, the rest when needed.

    Raises:
        DatasetError: the part is damaged where it is read.
        StorageError: the store refuses, or it does not exist.
    """
    try:
        yield pq.ParquetFile(
            pa.PythonFile(RangedFile(store, key, num_bytes), mode="r"),
            pre_buffer=True,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise damaged(store, key) from error
