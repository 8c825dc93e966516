"""The systems of an evaluation: named sets of captions, read in pages."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.captioning.output import open_finished
from raycap.config import EditsMode, StorageConfig
from raycap.datasets.readers.files import open_file
from raycap.errors import ConfigError
from raycap.evaluation.caption_file import FILE, ROWS, read_captions, read_file_names
from raycap.results.captioning import read_run
from raycap.runs.records import RUN
from raycap.storage.stores import open_store

_NOT_IN_NAMES = frozenset("/\\:")


class CaptionsFormat(StrEnum):
    """Source of captions."""

    RAYCAP = "raycap"
    """Output of a finished `raycap caption`."""
    COCO = "coco"
    """COCO results, or a whole COCO captions file with `images` and `annotations`."""
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_SUFFIXES = {
    ".json": CaptionsFormat.COCO,
    ".jsonl": CaptionsFormat.JSONL,
    ".csv": CaptionsFormat.CSV,
    ".parquet": CaptionsFormat.PARQUET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The captions of one system, not read yet."""

    name: str
    source: str
    format: CaptionsFormat
    pages: Callable[[], Iterator[pa.Table]]
    """Returns an iterator over all rows, as ROWS tables in any order."""
    file_names: Callable[[], Iterator[pa.Table]] | None = None
    """Returns an iterator over FILE_NAMES tables; None if the file cannot have any."""
    model: dict[str, Any] = field(default_factory=dict)
    """The model that wrote the captions, if known."""
    edits: str = ""
    """How corrections were applied to them; "" if there are none, or they were ignored."""


def open_captions(
    sources: Sequence[str | Path],
    config: StorageConfig,
    edits: EditsMode = EditsMode.APPLY,
) -> list[Captions]:
    """Open sets of captions, each with a unique name.

    Args:
        sources: outputs of `raycap caption`, or JSON, JSON Lines, CSV or Parquet files; local or
            in a bucket; `name=address` gives a name, `output#prompt` chooses a named prompt.
        config: settings of stores.
        edits: what becomes of the edits of reviewers in outputs.

    Raises:
        ConfigError: no source, two with the same name, or one of another kind.
        DatasetError: an output of raycap is unfinished or damaged.
        StorageError: a store refuses.
    """
    if not sources:
        raise ConfigError("no captions to evaluate; give at least one output or file of captions")
    given = [_split_name(source) for source in sources]
    names = _unique_names([name for name, _ in given], [source for _, source in given])
    return [
        _open(name, source, config, edits) for name, (_, source) in zip(names, given, strict=True)
    ]


def check_files(captions: Sequence[Captions], config: StorageConfig) -> None:
    """Make sure that the files of captions exist, before any work; outputs of raycap were opened.

    Raises:
        ConfigError: one does not exist.
        StorageError: a store refuses.
    """
    for found in captions:
        is_file = found.format != CaptionsFormat.RAYCAP
        if is_file and not open_file(found.source, config).exists():
            raise ConfigError(f"{found.source}: no such file", uri=found.source)


def _split_name(source: str | Path) -> tuple[str | None, str]:
    """Split `name=address`; an existing local path is an address, whatever its name."""
    text = str(source)
    name, equals, address = text.partition("=")
    is_named = bool(name and equals and address) and not _NOT_IN_NAMES & set(name)
    if isinstance(source, Path) or not is_named or os.path.exists(text):
        return None, text
    return name, address


def _unique_names(names: list[str | None], sources: list[str]) -> list[str]:
    """Return the given name of each system, or the end of its address that distinguishes it."""
    chosen = [name for name in names if name is not None]
    twice = {name for name in chosen if chosen.count(name) > 1}
    if twice:
        raise ConfigError(f"{sorted(twice)[0]}: two sets of captions have this name")
    parts = [_parts(source) for source in sources]
    unnamed = [steps for name, steps in zip(names, parts, strict=True) if name is None]
    found = [
        name if name is not None else _short_name(steps, unnamed, chosen)
        for name, steps in zip(names, parts, strict=True)
    ]
    return _numbered(found, names)


def _short_name(steps: list[str], unnamed: list[list[str]], chosen: list[str]) -> str:
    """Return the shortest end of an address that no other address has; else the whole address."""
    for depth in range(1, len(steps)):
        tail = steps[-depth:]
        name = "/".join(tail)
        if name not in chosen and not any(
            other != steps and other[-depth:] == tail for other in unnamed
        ):
            return name
    return "/".join(steps)


def _parts(source: str) -> list[str]:
    """Split an address into parts, the last without the suffix of a file of captions."""
    root, suffix = os.path.splitext(source.rstrip("/"))
    path = root if suffix.lower() in _SUFFIXES else source
    return [part for part in path.split("/") if part] or [source]


def _numbered(found: list[str], names: list[str | None]) -> list[str]:
    """Number names that are still equal: the same address, given twice."""
    taken = {name for name in names if name is not None}
    unique = []
    for name, chosen in zip(found, names, strict=True):
        number, candidate = 1, name
        while chosen is None and candidate in taken:
            number += 1
            candidate = f"{name} ({number})"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def _open(name: str, source: str, config: StorageConfig, edits: EditsMode) -> Captions:
    suffix = os.path.splitext(source)[1].lower()
    if suffix not in _SUFFIXES:
        return _open_output(name, source, config, edits)
    kind = _SUFFIXES[suffix]
    return Captions(
        name=name,
        source=source,
        format=kind,
        pages=partial(read_captions, source, config),
        file_names=partial(read_file_names, source, config) if kind == "coco" else None,
    )


def _open_output(name: str, source: str, config: StorageConfig, edits: EditsMode) -> Captions:
    if os.path.isfile(source):
        known = ", ".join(_SUFFIXES)
        raise ConfigError(
            f"{source}: is not a file of captions: its name must end with {known}", uri=source
        )
    address, prompt = _split_prompt(source, config)
    finished = open_finished(address, config, prompt=prompt, edits=edits)
    model = read_run(finished.store).get("fingerprint", {}).get("model", {})

    def pages() -> Iterator[pa.Table]:
        for page in finished.pages(_OUTPUT_COLUMNS):
            yield pa.table([page[_COLUMN_OF.get(name, name)] for name in ROWS.names], schema=ROWS)

    return Captions(
        name=name,
        source=finished.store.uri,
        format=CaptionsFormat.RAYCAP,
        pages=pages,
        model=model,
        edits=str(edits) if finished.is_edited else "",
    )


def _split_prompt(source: str, config: StorageConfig) -> tuple[str, str | None]:
    """Split `output#prompt`; an output whose name contains the sign is an address."""
    address, sign, prompt = source.rpartition("#")
    if not sign or open_store(source, config).exists(RUN):
        return source, None
    return address, prompt


_COLUMN_OF = {FILE: schema.IMAGE_ID}
_OUTPUT_COLUMNS = [name for name in ROWS.names if name not in _COLUMN_OF]
