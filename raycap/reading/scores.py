"""The rows of an evaluation of `raycap evaluate`: the scores of each image, for each system."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from raycap.config import StorageConfig
from raycap.errors import DatasetError, ObjectNotFound
from raycap.reading.parts import Content, Part, conformed, unified
from raycap.results.evaluation import Evaluation, System, read_evaluation
from raycap.schema import IMAGE_ID, SCORES
from raycap.storage.base import Store
from raycap.storage.stores import open_store

SYSTEM = "system"
"""Column with the name of the system."""

_SYSTEMS_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class ScoreRows(Content):
    """The scores of the images, system by system."""

    uri: str
    config: StorageConfig
    systems: tuple[str, ...]
    """The name of the system of each part, by its number."""
    schema: pa.Schema
    read_ahead: int = _SYSTEMS_AHEAD

    @property
    def is_keyed(self) -> bool:
        """Whether there is only one system."""
        return len(self.systems) == 1

    @cached_property
    def _store(self) -> Store:
        return open_store(self.uri, self.config)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_store"}

    def tables(self, part: Part, columns: list[str]) -> Iterator[pa.Table]:
        """Read columns of the scores of a system, by row groups."""
        wanted = pa.schema([self.schema.field(name) for name in columns])
        file = _open(self._store, part.key)
        stored = [name for name in columns if name in file.schema_arrow.names]
        try:
            for number in range(file.num_row_groups):
                # The ids too: a table without columns has no rows.
                table = file.read_row_group(number, list(dict.fromkeys([IMAGE_ID, *stored])))
                names = pa.array([self.systems[part.number]] * len(table), pa.string())
                yield conformed(table.append_column(SYSTEM, names), wanted)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self._store, part.key) from error


def open_scores(store: Store, config: StorageConfig) -> tuple[ScoreRows, list[Part], Evaluation]:
    """Open an evaluation.

    Raises:
        DatasetError: it has no scores of images, or they are damaged.
    """
    evaluation = read_evaluation(store)
    systems = [system for system in evaluation.systems if system.scores]
    if not systems:
        raise DatasetError(
            f"{store.uri}: has no scores of single images; evaluate again with an output",
            uri=store.uri,
        )
    files = [_open(store, system.scores) for system in systems]
    found = unified([pa.schema([(SYSTEM, pa.string())]), SCORES, *(f.schema_arrow for f in files)])
    rows = ScoreRows(
        uri=store.uri,
        config=config,
        systems=tuple(system.name for system in systems),
        schema=found,
    )
    pairs = enumerate(zip(systems, files, strict=True))
    parts = [_part(number, system, file) for number, (system, file) in pairs]
    return rows, parts, evaluation


def _part(number: int, system: System, file: pq.ParquetFile) -> Part:
    ids = file.read([IMAGE_ID])[IMAGE_ID]
    return Part(
        key=system.scores,
        first=ids[0].as_py() if len(ids) else "",
        last=ids[-1].as_py() if len(ids) else "",
        num_rows=len(ids),
        number=number,
    )


def _open(store: Store, key: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(store.read(key)))
    except (pa.ArrowException, OSError, ObjectNotFound) as error:
        raise _damaged(store, key) from error


def _damaged(store: Store, key: str) -> DatasetError:
    return DatasetError(
        f"{store.address(key)}: is missing, damaged or holds no scores; evaluate again",
        uri=store.address(key),
    )
