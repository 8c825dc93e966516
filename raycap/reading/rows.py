"""The rows of an output, read when they are needed, for whatever tool they are needed in."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raycap.errors import ConfigError
from raycap.reading.parts import Part, PartReader
from raycap.reading.preview import preview
from raycap.results.captioning import Summary
from raycap.results.dataset import DatasetRecord
from raycap.results.display import Displayed, Shown
from raycap.results.evaluation import Evaluation
from raycap.results.outputs import OutputKind
from raycap.scratch import relation_of
from raycap.storage.parallel import ordered_chain

if TYPE_CHECKING:
    import duckdb
    import ray.data

_ROWS = 1024
"""Rows that are Python objects at the same time."""


class Rows(Displayed):
    """The rows of an output as it was when it was opened, part by part; sorted within each.

    Nothing but footers has been read. Iterating gives the rows as dictionaries and reads part by
    part; `rows["a.jpg"]` reads the part that has the row of this image. Every consumer of the Arrow
    stream interface takes the object itself: `polars.DataFrame(rows)`, `pyarrow.table(rows)`, and
    in DuckDB the name of the variable.

    Attributes:
        output: Its address.
        kind: The command that wrote it: captions, dataset or evaluation.
        is_complete: Whether the run had ended. If not, there are the rows that were committed.
        prompts: Names of the prompts that the captions answer; empty for one caption per image.
        prompt: The named prompt whose answers are the columns `caption`, `status` and so on.
        summary: What the run wrote at its end, as `raycap.caption`, `raycap.prepare` or
            `raycap.evaluate` returned it; None if it is not complete.
    """

    def __init__(  # noqa: PLR0913  facts about the output, by keyword
        self,
        reader: PartReader,
        parts: Sequence[Part],
        *,
        output: str,
        kind: OutputKind,
        summary: Summary | DatasetRecord | Evaluation | None,
        prompts: tuple[str, ...] = (),
        prompt: str | None = None,
    ) -> None:
        self._reader = reader
        self._parts = parts
        self._num_rows: int | None = None
        self.output = output
        self.kind = kind
        self.is_complete = summary is not None
        self.summary = summary
        self.prompts = prompts
        self.prompt = prompt

    @property
    def schema(self) -> pa.Schema:
        """The columns with their types."""
        return self._reader.schema

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._reader.columns)

    @property
    def num_parts(self) -> int:
        """Files that the rows are in."""
        return len(self._parts)

    def __len__(self) -> int:
        """Count the rows: from the footers unless there is a condition."""
        if self._num_rows is None:
            self._num_rows = self._count()
        return self._num_rows

    def _count(self) -> int:
        if not self._reader.counts:
            return sum(part.num_rows for part in self._parts)
        first = self._reader.content.schema.names[:1]
        return sum(map(len, self._tables(self._reader.only(first))))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as dictionaries, as they are read."""
        for table in self._tables():
            for batch in table.to_batches(_ROWS):
                yield from batch.to_pylist()

    def __getitem__(self, image_id: str) -> dict[str, Any]:
        """Return the row of an image.

        Raises:
            KeyError: there is none.
            TypeError: it is no image id: rows have no numbers.
            ConfigError: images have a row for each of several systems.
        """
        if not isinstance(image_id, str):
            raise TypeError(
                f"rows are found by image id, not by {type(image_id).__name__}: use head(n) for "
                "the first ones, or to_arrow() for rows by number"
            )
        found = self._find(image_id)
        if found is None:
            raise KeyError(image_id)
        return found

    def __contains__(self, image_id: object) -> bool:
        """Whether there is a row of an image."""
        return isinstance(image_id, str) and self._find(image_id) is not None

    def _find(self, image_id: str) -> dict[str, Any] | None:
        if not self._reader.content.is_keyed:
            raise ConfigError(
                f"{self.output}: an image has a row for each system; choose one with "
                "where=\"system = 'NAME'\", and iterate",
                uri=self.output,
            )
        return self._reader.find(self._parts, image_id)

    def head(self, n: int = 5) -> list[dict[str, Any]]:
        """Return the first rows; no more parts are read than it takes.

        Raises:
            ConfigError: the number is negative.
        """
        if n < 0:
            raise ConfigError(f"n={n}: give the number of rows, 0 or more", setting="n")
        return list(islice((row for part in self._parts for row in self._rows_of(part)), n))

    def _rows_of(self, part: Part) -> Iterator[dict[str, Any]]:
        for table in self._reader(part):
            for batch in table.to_batches(_ROWS):
                yield from batch.to_pylist()

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow record batches, as they are read."""
        for table in self._tables():
            yield from table.to_batches()

    def to_arrow(self) -> pa.Table:
        """Return all rows as an Arrow table, in memory."""
        return pa.Table.from_batches(self.to_batches(), self.schema)

    def to_pandas(self) -> Any:
        """Return all rows as a data frame of pandas, in memory.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import_module("pandas")
        except ImportError as error:
            raise ConfigError(
                "to_pandas needs pandas: pip install pandas; to_arrow and to_batches do not"
            ) from error
        return self.to_arrow().to_pandas()

    def to_ray(self) -> "ray.data.Dataset":
        """Return the rows as a dataset of Ray Data: each part is read by a task, when it is needed.

        No row passes through this process. Ray Data connects to Ray, or starts it, as it does for
        `ray.data.read_parquet`.
        """
        from raycap.reading.remote import dataset_of  # noqa: PLC0415  imports Ray Data

        return dataset_of(self._reader, self._parts)

    def to_duckdb(
        self, connection: "duckdb.DuckDBPyConnection | None" = None
    ) -> "duckdb.DuckDBPyRelation":
        """Return the rows as a relation of DuckDB, which reads the parts when it is evaluated.

        Args:
            connection: That the relation belongs to; None for a new database in memory.
        """
        return relation_of(self, connection)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give a stream of the rows to another library that understands Arrow's C interface."""
        batches = pa.RecordBatchReader.from_batches(self.schema, self.to_batches())
        return batches.__arrow_c_stream__(requested_schema)

    def shown(self) -> Shown:
        """Show the first rows; they are counted only if footers say how many there are."""
        counted = None if self._num_rows is None and self._reader.counts else len(self)
        facts = [
            ("rows", "those that meet a condition" if counted is None else f"{counted:,}"),
            ("columns", ", ".join(self.columns)),
            *([("prompts", ", ".join(self.prompts))] if self.prompts else []),
            ("complete", "yes" if self.is_complete else "no: the rows so far"),
            ("output", self.output),
        ]
        table = preview(self.head(), self.columns, self.prompts)
        return Shown(title=f"Rows of {self.kind}", rows=facts, tables=[table] if table else [])

    def _tables(self, reader: PartReader | None = None) -> Iterator[pa.Table]:
        read = reader or self._reader
        yield from ordered_chain(map(read, self._parts), read.content.read_ahead, depth=1)
