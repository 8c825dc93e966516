"""Per-image scores as files: SCORES tables, written chunk by chunk, uploaded when whole."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycap import schema
from raycap.evaluation.chunks import IS_SCORED, column
from raycap.evaluation.clip import ClipColumns
from raycap.evaluation.meteor import corpus_meteor
from raycap.evaluation.scoring import ScoredChunk, SystemScores
from raycap.results.evaluation import SCORES
from raycap.storage.base import KEY, Store

_SCORE_KEY = re.compile(rf"{re.escape(SCORES)}part-\d{{3,}}\.parquet")


def score_key(system: int) -> str:
    """Name the file of a system, relative to the evaluation."""
    return f"{SCORES}part-{system:03d}.parquet"


class ScoreFiles:
    """Writes the scores of all systems; see `score_files`."""

    def __init__(self, writers: Sequence[pq.ParquetWriter]) -> None:
        self._writers = writers

    def write(self, chunk: pa.Table, scored: ScoredChunk, clips: Sequence[ClipColumns]) -> None:
        """Write a chunk.

        Args:
            chunk: as `chunks.read_chunks` yields it.
            scored: what was found of it.
            clips: of each system, the chunk's share of CLIPScores; empty without.
        """
        for number, writer in enumerate(self._writers):
            table = scores_table(chunk, number, scored, clips[number])
            writer.write_table(table, row_group_size=len(table))


@contextmanager
def score_files(store: Store | None, num_systems: int) -> Iterator[ScoreFiles]:
    """Replace the scores of an evaluation, once the block has ended well; with no store, none."""
    if store is None:
        yield ScoreFiles([])
        return
    with TemporaryDirectory(prefix="raycap-scores-") as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in range(num_systems)]
        with ExitStack() as opened:
            writers = [
                opened.enter_context(pq.ParquetWriter(path, schema.SCORES, compression="zstd"))
                for path in paths
            ]
            yield ScoreFiles(writers)
        for key in _written_before(store):
            store.delete(key)
        for number, path in enumerate(paths):
            store.upload(score_key(number), path)


def _written_before(store: Store) -> list[str]:
    """List the scores of an earlier evaluation, and nothing else that may stand there."""
    keys = [key for page in store.list(SCORES) for key in page[KEY].to_pylist()]
    return [key for key in keys if _SCORE_KEY.fullmatch(key)]


def scores_table(chunk: pa.Table, system: int, scored: ScoredChunk, clip: ClipColumns) -> pa.Table:
    """Give SCORES of one system: one row an image of the chunk, scored or not."""
    found = scored.systems[system]
    places = np.flatnonzero(chunk[IS_SCORED].to_numpy())
    captions = chunk[column(schema.CAPTION, system)]
    lengths = np.where(found.has_caption, found.lengths, -1)
    num_tokens = _spread(lengths.astype(np.float64), places, len(chunk))
    columns: dict[str, Any] = {
        schema.IMAGE_ID: chunk[schema.IMAGE_ID],
        **{
            name: chunk[column(name, system)]
            for name in (schema.URI, schema.STATUS, schema.ERROR_CODE)
        },
        schema.CAPTION: captions,
        schema.LOGPROB: chunk[column(schema.LOGPROB, system)],
        schema.REFERENCE_CAPTIONS: chunk[schema.REFERENCE_CAPTIONS],
        schema.NUM_TOKENS: pa.array(num_tokens, mask=~(num_tokens >= 0)).cast(
            pa.int32(), safe=False
        ),
        schema.REFERENCE_TOKENS: pa.array(scored.reference_tokens, pa.list_(pa.int32())),
    }
    scores = {**_scores(found), **clip}
    for name in schema.SCORES.names:
        if name not in columns:
            values = scores.get(name, np.full(len(places), np.nan))
            spread = _spread(values, places, len(chunk))
            columns[name] = pa.array(spread, mask=np.isnan(spread))
    ordered = [columns[name] for name in schema.SCORES.names]
    return pa.Table.from_arrays(ordered, names=schema.SCORES.names).cast(schema.SCORES)


def _scores(found: SystemScores) -> dict[str, np.ndarray]:
    scores = {name: found.images.bleu[:, order] for order, name in enumerate(schema.BLEU)}
    scores |= {schema.ROUGE_L: found.images.rouge_l, schema.CIDER_D: found.images.cider_d}
    if found.meteor is not None:
        scores[schema.METEOR] = corpus_meteor(found.meteor)
    if found.spice is not None:
        scores[schema.SPICE] = found.spice
    return scores


def _spread(values: np.ndarray, places: np.ndarray, num_rows: int) -> np.ndarray:
    """Put the scored images' values in their places among all; NaN elsewhere."""
    found = np.full(num_rows, np.nan)
    found[places] = values
    return found
