"""What a review shows beside the captions: other outputs, references, scores of an evaluation."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raycap import schema
from raycap.captioning.output import FinishedOutput, open_finished
from raycap.config import EditsMode, StorageConfig
from raycap.datasets.dataset import open_dataset
from raycap.errors import DatasetError, RaycapError
from raycap.evaluation.captions import Captions, check_files, open_captions
from raycap.results.evaluation import EVALUATION, Evaluation, System, read_evaluation
from raycap.reviewing.index import TEXTS, Beside, Scores
from raycap.storage.base import Store
from raycap.storage.stores import open_store

REFERENCES = "references"
_ROWS_AT_A_TIME = 65_536
_LIST = pa.list_(pa.string())
_BESIDE = pa.schema([pa.field(schema.IMAGE_ID, pa.string()), pa.field(TEXTS, _LIST)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a review is made of."""

    output: FinishedOutput
    beside: list[Beside] = field(default_factory=list)
    scores: Scores | None = None


def open_sources(addresses: Sequence[str], config: StorageConfig) -> Sources:
    """Open the output to review, and what is shown beside it.

    Args:
        addresses: The output; then further outputs and files of captions, as `raycap evaluate`
            takes them, and one evaluation of the output.
        config: How stores are accessed.

    Raises:
        ConfigError: an address is wrong.
        DatasetError: an output is unfinished or damaged, or the evaluation is of other captions.
        StorageError: a store refuses.
    """
    output = open_finished(addresses[0], config, edits=EditsMode.IGNORE)
    evaluations = [one for one in addresses[1:] if _is_evaluation(one, config)]
    captions = [one for one in addresses[1:] if one not in evaluations]
    found = Sources(output=output)
    if captions:
        opened = open_captions(captions, config)
        check_files(opened, config)
        found.beside.extend(map(_captions, opened))
    references, scores = _of_dataset(output), None
    for address in evaluations:
        store = open_store(address, config)
        references, scores = _of_evaluation(store, read_evaluation(store), output)
    if references is not None:
        found.beside.append(references)
    return Sources(output=output, beside=found.beside, scores=scores)


def _is_evaluation(address: str, config: StorageConfig) -> bool:
    # A file of captions, or `name=address`, is none.
    if os.path.isfile(address) or "=" in address:
        return False
    return open_store(address, config).exists(EVALUATION)


def _captions(captions: Captions) -> Beside:
    def tables() -> Iterator[pa.Table]:
        for page in captions.pages():
            rows = page.filter(pc.is_valid(page[schema.CAPTION]))
            lists = pa.array([[text] for text in rows[schema.CAPTION].to_pylist()], _LIST)
            yield pa.table([rows[schema.IMAGE_ID], lists], schema=_BESIDE)

    return Beside(name=captions.name, tables=tables)


def _of_dataset(output: FinishedOutput) -> Beside | None:
    """Return the references of the caption dataset that was captioned; None without any."""
    if output.dataset is None:
        return None
    try:
        dataset = open_dataset(output.dataset, output.config)
    except RaycapError:
        return None  # no longer there: the captions can be reviewed without it

    def tables() -> Iterator[pa.Table]:
        for page in dataset.pages(columns=[schema.IMAGE_ID, schema.CAPTIONS_LIST]):
            yield pa.table(
                [page[schema.IMAGE_ID], page[schema.CAPTIONS_LIST].cast(_LIST)], schema=_BESIDE
            )

    return Beside(name=REFERENCES, tables=tables)


def _of_evaluation(
    store: Store, evaluation: Evaluation, output: FinishedOutput
) -> tuple[Beside, Scores]:
    """Return the references and scores of an evaluation of an output."""
    systems = [
        system
        for system in evaluation.systems
        if system.scores and system.source.rstrip("/") == output.store.uri.rstrip("/")
    ]
    if not systems:
        names = ", ".join(system.source for system in evaluation.systems)
        raise DatasetError(
            f"{store.uri}: has no scores of {output.store.uri}; it is an evaluation of: {names}",
            uri=store.uri,
        )
    metrics = tuple(
        metric.name
        for metric in systems[0].metrics
        if metric.value is not None and metric.name in schema.METRICS
    )
    key = schema.IMAGE_ID if systems[0].matched_by == schema.IMAGE_ID else schema.URI

    def scored() -> Iterator[pa.Table]:
        for system in systems:
            yield from _score_rows(store, system, [key, schema.CAPTION, *metrics])

    def references() -> Iterator[pa.Table]:
        names = [schema.IMAGE_ID, schema.REFERENCE_CAPTIONS]
        for page in _score_rows(store, systems[0], names):
            yield pa.table([page[names[0]], page[names[1]].cast(_LIST)], schema=_BESIDE)

    return (
        Beside(name=REFERENCES, tables=references),
        Scores(metrics=metrics, key=key, tables=scored),
    )


def _score_rows(store: Store, system: System, columns: list[str]) -> Iterator[pa.Table]:
    try:
        file = pq.ParquetFile(pa.BufferReader(store.read(system.scores)))
        for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=columns):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        address = store.address(system.scores)
        raise DatasetError(f"{address}: is damaged; evaluate again", uri=address) from error
