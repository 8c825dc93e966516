"""`raycap edits`: the corrections of an output listed, undone and exported."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from raycap.config import Existing, StorageConfig, choose
from raycap.edits.history import History
from raycap.edits.log import EditLog
from raycap.edits.records import Edit
from raycap.edits.writing import EditWriter
from raycap.errors import ConfigError
from raycap.exporting.values import quoted
from raycap.results.captioning import read_caption_run
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
