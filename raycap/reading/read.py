"""`raycap.read`: an output of raycap as rows."""

from collections.abc import Callable, Sequence
from pathlib import Path

from raycap.config import EditsMode, StorageConfig, choose
from raycap.errors import ConfigError, DatasetError
from raycap.inspection import find_kind
from raycap.reading.captions import open_captions
from raycap.reading.datasets import open_dataset_rows
from raycap.reading.parts import Content, Part, PartReader, check_where, choose_columns
from raycap.reading.rows import Rows
from raycap.reading.scores import open_scores
from raycap.results.dataset import DatasetRecord
from raycap.results.evaluation import Evaluation
from raycap.results.outputs import OutputKind
from raycap.storage.base import Store
from raycap.storage.stores import open_store

_Open = Callable[[Store, StorageConfig], tuple[Content, list[Part], DatasetRecord | Evaluation]]

_OTHERS: dict[OutputKind, _Open] = {
    OutputKind.DATASET: open_dataset_rows,
    OutputKind.EVALUATION: open_scores,
}
"""How outputs other than captions are opened; the other kinds have no rows."""


def read(
    output: str | Path,
    prompt: str | None = None,
    *,
    columns: Sequence[str] | str | None = None,
    where: str | None = None,
    edits: EditsMode | str = EditsMode.APPLY,
    storage: StorageConfig | None = None,
) -> Rows:
    """Open an output to read its rows; nothing but footers is read yet.

    Args:
        output: A folder or `s3://bucket/prefix`: an output of `raycap caption`, finished or not; a
            caption dataset of `raycap prepare`; or an evaluation, whose rows are the scores of each
            image.
        prompt: The named prompt whose answers are the columns `caption`, `status` and so on; None
            for the first. The answers to each prompt are also a column with the name of the prompt.
        columns: The columns to read, as a list or with commas between them; None for all, of a
            dataset for all but `bytes`.
        where: Only rows for which this condition holds: an expression of SQL, as of `raycap export
            --where`, such as `status = 'failed'`. It may name columns that are not read.
        edits: `apply` gives captions as reviewers left them, and if there are edits, what they made
            of each in the columns `edited`, `review` and `stale`; `ignore` those of the run; `only`
            those that a reviewer has written or approved.
        storage: How stores are accessed; None for the defaults.

    Returns:
        The rows that are committed now: those of a run that goes on can be read again later.

    Raises:
        ConfigError: the address is wrong, there is nothing there, or there is no such column.
        DatasetError: it is not an output with rows, is damaged, or was not asked this prompt.
        StorageError: it cannot be read.
    """
    mode = choose(EditsMode, edits, "edits")
    config = storage or StorageConfig()
    store = open_store(str(output), config)
    kind = find_kind(store)
    if kind is OutputKind.CAPTIONS:
        opened = open_captions(store, config, prompt, mode)
        return Rows(
            _reader(opened.rows, columns, where, store),
            opened.parts,
            output=store.uri,
            kind=kind,
            summary=opened.summary,
            prompts=opened.prompts,
            prompt=opened.rows.prompt,
        )
    if kind not in _OTHERS:
        raise DatasetError(
            f"{store.uri}: is the output of a {kind}, which has no rows; give an output of `raycap "
            "caption`, `raycap prepare` or `raycap evaluate`",
            uri=store.uri,
        )
    if prompt is not None:
        raise ConfigError(
            f"{store.uri}: only captions have named prompts, and this is a {kind}",
            uri=store.uri,
            setting="prompt",
        )
    content, parts, summary = _OTHERS[kind](store, config)
    reader = _reader(content, columns, where, store)
    return Rows(reader, parts, output=store.uri, kind=kind, summary=summary)


def _reader(
    content: Content,
    columns: Sequence[str] | str | None,
    where: str | None,
    store: Store,
) -> PartReader:
    names = choose_columns(content, columns, store.uri)
    check_where(content, where, store.uri)
    return PartReader(content=content, columns=names, where=where)
