"""`raycap edits`: the corrections of an output listed, undone, exported, and copied to another."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from raycap.captioning.output import open_finished
from raycap.config import EditsMode, Existing, StorageConfig, choose
from raycap.edits.history import History
from raycap.edits.log import EditLog
from raycap.edits.records import Edit, EditAction, EditState, Review, version_differs
from raycap.edits.writing import EditWriter, new_batch
from raycap.errors import ConfigError
from raycap.exporting.values import quoted
from raycap.results.captioning import read_caption_run
from raycap.schema import CAPTION, DIGEST, ETAG, IMAGE_ID
from raycap.storage.base import Store
from raycap.storage.stores import open_file, open_store

UNDONE = "undone"
"""Whether an edit is undone, in what `export_edits` writes."""
_COLUMNS = (*(field.name for field in fields(Edit)), UNDONE)


@dataclass(frozen=True, slots=True)
class ListedEdit:
    """An edit, and whether it still counts."""

    edit: Edit
    is_undone: bool


def list_edits(
    output: str | Path,
    *,
    image: str | None = None,
    by: str | None = None,
    last: int | None = None,
    storage: StorageConfig | None = None,
) -> list[ListedEdit]:
    """List the corrections of the captions in an output.

    Args:
        output: the output of `raycap caption`, finished or not.
        image: only those of the image with this id.
        by: only those of this reviewer.
        last: only so many, the latest; None: all.
        storage: how stores are accessed; None for the defaults.

    Returns:
        the edits, in the order in which they were saved.

    Raises:
        DatasetError: it is not an output of `raycap caption`, or its edits are damaged.
        StorageError: it cannot be read.
    """
    history = _read(output, storage or StorageConfig())
    found = [
        ListedEdit(edit, history.is_undone(edit))
        for edit in history
        if (image is None or edit.image_id == image) and (by is None or edit.by == by)
    ]
    return found if last is None else found[-last:]


def _read(output: str | Path, config: StorageConfig) -> History:
    return History(EditLog(_open(output, config), config.list_threads).read_new())


def undo_edits(
    output: str | Path,
    edits: Sequence[str] = (),
    *,
    by: str | None = None,
    since: datetime | str | None = None,
    reviewer: str | None = None,
    storage: StorageConfig | None = None,
) -> list[Edit]:
    """Undo corrections, as if they had never been made; later edits of the same captions remain.

    Args:
        output: the output of `raycap caption`.
        edits: ids of edits or batches to undo. An undoing has an id, too.
        by: undo the edits of this reviewer instead.
        since: of those, the ones saved at this time or later, in ISO 8601; without a zone it is in
            UTC. None: all.
        reviewer: who undoes them; None for the login name.
        storage: how stores are accessed; None for the defaults.

    Returns:
        the edits that undo them.

    Raises:
        ConfigError: neither edits nor a reviewer were given, or both; or there are no such edits,
            or they are undone already.
        DatasetError: it is not an output of `raycap caption`, or its edits are damaged.
        StorageError: the store refuses.
    """
    if bool(edits) == (by is not None) or (since is not None and by is None):
        raise ConfigError(
            "name the edits or batches to undo, or a reviewer with --by, and --since beside it",
            setting="edits" if by is None else "by",
        )
    store = _open(output, storage or StorageConfig())
    time = _time(since)
    writer = EditWriter(store, reviewer)
    if by is None:
        return [edit for name in dict.fromkeys(edits) for edit in writer.undo(name)]
    found = writer.undo_since(by, time)
    if not found:
        raise ConfigError(f"{store.uri}: {by} has no edits to undo", uri=store.uri, setting="by")
    return found


def _time(since: datetime | str | None) -> datetime:
    if since is None:
        return datetime.min.replace(tzinfo=UTC)
    try:
        time = datetime.fromisoformat(since) if isinstance(since, str) else since
    except ValueError as error:
        raise ConfigError(
            f"--since {since}: is not a time, such as 2026-03-31T14:00", setting="since"
        ) from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def export_edits(
    output: str | Path,
    destination: str | Path,
    *,
    existing: Existing | str = Existing.REFUSE,
    storage: StorageConfig | None = None,
) -> int:
    """Write all corrections of the captions in an output to a file, one per row.

    Args:
        output: the output of `raycap caption`.
        destination: a file that ends with `.jsonl` or `.csv`, local or in a bucket.
        existing: what happens if the file exists: `refuse` or `overwrite`.
        storage: how stores are accessed; None for the defaults.

    Returns:
        their number.

    Raises:
        ConfigError: the name of the file ends otherwise, the file exists, or `existing` is
            another.
        DatasetError: it is not an output of `raycap caption`, or its edits are damaged.
        StorageError: a store refuses.
    """
    config = storage or StorageConfig()
    choice = choose(Existing, existing, "existing")
    if choice not in (Existing.REFUSE, Existing.OVERWRITE):
        raise ConfigError(
            f"existing={choice}: a file of edits is written as a whole; give refuse or overwrite",
            setting="existing",
        )
    encode = _ENCODINGS.get(Path(str(destination)).suffix.lower())
    if encode is None:
        raise ConfigError(
            f"{destination}: must end with {' or '.join(_ENCODINGS)}", uri=str(destination)
        )
    history = _read(output, config)
    store, key = open_file(str(destination), config, example="edits.jsonl")
    data = encode({**asdict(edit), UNDONE: history.is_undone(edit)} for edit in history)
    if choice is Existing.OVERWRITE:
        store.write(key, data)
    elif not store.create(key, data):
        raise ConfigError(
            f"{store.address(key)}: exists already; move it away, give another file, or replace "
            "it with --existing overwrite",
            uri=store.address(key),
        )
    return len(history)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedEdits:
    """Result of copying corrections to another output."""

    batch: str
    """Name of the copied edits, which undoes them; empty if there are none."""
    num_copied: int = 0
    num_reviewed: int = 0
    """Captions that have edits of their own there, which remain."""
    num_changed: int = 0
    """Images that differ there from those that were corrected."""
    num_missing: int = 0
    """Images, or prompts about them, that are not there."""


def copy_edits(
    source: str | Path,
    output: str | Path,
    *,
    reviewer: str | None = None,
    storage: StorageConfig | None = None,
) -> CopiedEdits:
    """Copy the texts that people wrote to another output, such as one of another model.

    They are copied to the same images and prompts. Approvals of these texts are copied too, but not
    reviews of captions that a model wrote: the other output has other captions.

    Args:
        source: the output of `raycap caption` with the corrections.
        output: the output that gets them, finished.
        reviewer: whose edits they are there; None for the login name.
        storage: how stores are accessed; None for the defaults.

    Raises:
        DatasetError: one is not an output of `raycap caption`, its edits are damaged, or `output`
            is unfinished.
        EditConflict: somebody edits the same captions at this time.
        StorageError: a store refuses.
    """
    config = storage or StorageConfig()
    states: defaultdict[str | None, dict[str, EditState]] = defaultdict(dict)
    for state in _read(source, config).states():
        if state.text is not None:
            states[state.prompt][state.image_id] = state
    writer = EditWriter(_open(output, config), reviewer)
    counts: Counter[str] = Counter()
    copies: list[tuple[Edit, EditState]] = []
    for prompt, of_prompt in states.items():
        copies += _copies(_rows_of(str(output), config, prompt), of_prompt, writer.history, counts)
    batch = new_batch() if copies else ""
    texts = [replace(edit, batch=batch) for edit, _ in copies]
    approvals = [
        replace(edit, action=EditAction.APPROVE, old=edit.new, new=None, batch=batch)
        for edit, state in copies
        if state.review is Review.APPROVED
    ]
    for edits in (texts, approvals):
        writer.save(edits)
    num_texts = sum(map(len, states.values()))
    return CopiedEdits(
        batch=batch,
        num_copied=len(copies),
        num_reviewed=counts[_REVIEWED],
        num_changed=counts[_CHANGED],
        num_missing=num_texts - len(copies) - counts.total(),
    )


_REVIEWED, _CHANGED = "reviewed", "changed"
_SEEN = (IMAGE_ID, ETAG, DIGEST, CAPTION)


def _rows_of(output: str, config: StorageConfig, prompt: str | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of an output, with its answers to a prompt; none if it was not asked that."""
    rows = open_finished(output, config, edits=EditsMode.IGNORE)
    if prompt != rows.prompt:
        if prompt not in rows.prompts:
            return
        rows = open_finished(output, config, prompt=prompt, edits=EditsMode.IGNORE)
    for page in rows.pages(list(_SEEN)):
        yield from page.to_pylist()


def _copies(
    rows: Iterable[dict[str, Any]],
    states: Mapping[str, EditState],
    history: History,
    counts: Counter[str],
) -> Iterator[tuple[Edit, EditState]]:
    """Yield the edits that copy texts to rows; count the rows that do not get theirs."""
    for row in rows:
        state = states.get(row[IMAGE_ID])
        if state is None:
            continue
        if version_differs(state.digest, state.etag, row[DIGEST], row[ETAG]):
            counts[_CHANGED] += 1
        elif history.state(state.image_id, state.prompt).last:
            counts[_REVIEWED] += 1
        else:
            edit = Edit(
                image_id=state.image_id,
                prompt=state.prompt,
                action=EditAction.TEXT,
                old=row[CAPTION],
                new=state.text,
                digest=row[DIGEST],
                etag=row[ETAG],
            )
            yield edit, state


def _as_json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _as_csv(rows: Iterable[dict[str, Any]]) -> bytes:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: quoted(value) for name, value in row.items()})
    return text.getvalue().encode()


_ENCODINGS = {".jsonl": _as_json_lines, ".csv": _as_csv}


def _open(output: str | Path, config: StorageConfig) -> Store:
    """Open an output of `raycap caption`. Raises DatasetError if it is none."""
    store = open_store(str(output), config)
    read_caption_run(store)
    return store
