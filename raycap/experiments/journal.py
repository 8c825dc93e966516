"""Journals of experiments: which trials have ended, and with what result.

An `Experiment` is a set of named trials in one output. Each trial has a folder of its own, and a
JSON record in that folder once it has ended: on resume, a trial without a record is continued.

A `LineJournal` serves trials that leave nothing but their result: one JSON line per trial in a
local file.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from raycap.errors import DatasetError, ObjectNotFound, StorageError
from raycap.parsing import parse_json
from raycap.results.status import Status
from raycap.runs.records import encode_json, read_as
from raycap.storage.base import KEY, Store

_REMEDY = "delete it, and run the same command"
_FINGERPRINT = "fingerprint"


class TrialRecord(Protocol):
    """The result of one trial, as far as every experiment has it."""

    @property
    def name(self) -> str:
        """Unique within the experiment; also the name of the trial's folder."""

    @property
    def status(self) -> str:
        """How the trial ended: a `Status`."""

    @property
    def reason(self) -> str:
        """Why it failed."""


T = TypeVar("T", bound=TrialRecord)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experiment(Generic[T]):
    """Where the trials of a kind of experiment keep their files and records."""

    folder: str
    """Prefix of all trials' folders, such as `trials/`."""
    record: str
    """File name of a trial's record, such as `trial.json`."""
    form: type[T]
    """Dataclass of the record."""

    def folder_of(self, name: str) -> str:
        """Return the prefix of a trial's own files."""
        return f"{self.folder}{name}/"

    def write(self, store: Store, trial: T) -> None:
        """Write the record of a trial that has ended."""
        values: Any = trial  # a dataclass
        store.write(self._record_of(trial.name), encode_json(asdict(values)))

    def read_ended(
        self, store: Store, names: Iterable[str] | None = None, *, retry_failed: bool = False
    ) -> dict[str, T]:
        """Read the trials that have ended.

        Args:
            store: the experiment's output.
            names: trials to look for; None for all.
            retry_failed: leave out failed trials, which are to run again.

        Returns:
            Their records by name.

        Raises:
            DatasetError: a record is damaged.
        """
        form = TypeAdapter(self.form)
        found = {}
        for name in self._recorded(store) if names is None else names:
            with suppress(ObjectNotFound):
                trial: T = read_as(form, store, self._record_of(name), _REMEDY)
                if not (retry_failed and trial.status == Status.FAILED):
                    found[trial.name] = trial
        return found

    def find_leftovers(self, store: Store, prefixes: tuple[str, ...]) -> set[str]:
        """Return the names of trials with files under any prefix within their folder."""
        return {name for name, inner in self._files(store) if inner.startswith(prefixes)}

    def _recorded(self, store: Store) -> list[str]:
        return [name for name, inner in self._files(store) if inner == self.record]

    def _record_of(self, name: str) -> str:
        return f"{self.folder_of(name)}{self.record}"

    def _files(self, store: Store) -> Iterator[tuple[str, str]]:
        """Yield each trial file: the trial's name, and the key within its folder."""
        for page in store.list(self.folder):
            for key in page[KEY].to_pylist():
                name, _, inner = key.removeprefix(self.folder).partition("/")
                yield name, inner


class LineJournal:
    """A JSON Lines file that grows by one entry at a time; the fingerprint is its first line.

    Each entry is an object with one key, its kind. It is on disk when `add` returns. A last line
    cut short by a kill is dropped when the file is opened again.
    """

    fingerprint: dict[str, Any] | None
    """What decides the result of a trial; None while the file is empty."""
    guard: Callable[[], None]
    """Called before each write; raises if another writer has taken over the output."""

    def __init__(self, path: Path, forms: Mapping[str, type]) -> None:
        """Open the file, and read its entries if it exists.

        Args:
            path: the file.
            forms: the dataclass of each kind of entry.

        Raises:
            DatasetError: the file is damaged.
        """
        self._path = path
        self.guard = lambda: None
        self._forms: dict[str, TypeAdapter[Any]] = {
            kind: TypeAdapter(form) for kind, form in forms.items()
        }
        self._entries: list[tuple[str, Any]] = []
        lines = self._read()
        self.fingerprint = lines[0].get(_FINGERPRINT, {}) if lines else None
        try:
            for line in lines[1:]:
                self._take(line)
        except ValidationError as error:
            raise self._damaged(error.errors()[0]["msg"]) from error

    def claim(self, fingerprint: dict[str, Any]) -> None:
        """Write the fingerprint, the first line of an empty file."""
        self.fingerprint = fingerprint
        self._append({_FINGERPRINT: fingerprint})

    def entries(self, kind: str) -> list[Any]:
        """Return the entries of one kind, in order."""
        return [entry for its_kind, entry in self._entries if its_kind == kind]

    def add(self, kind: str, entry: Any) -> None:
        """Append an entry, and wait until it is on disk."""
        self._entries.append((kind, entry))
        self._append({kind: self._forms[kind].dump_python(entry, mode="json")})

    def _take(self, line: dict[str, Any]) -> None:
        for kind in self._forms.keys() & line.keys():
            self._entries.append((kind, self._forms[kind].validate_python(line[kind])))

    def _read(self) -> list[dict[str, Any]]:
        """Read the complete lines, and cut off what a kill left of a last one."""
        if not self._path.is_file():
            return []
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        try:
            lines = [parse_json(line) for line in whole.splitlines()]
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if not all(isinstance(line, dict) for line in lines):
            raise self._damaged("a line is not a JSON object")
        return lines

    def _append(self, line: dict[str, Any]) -> None:
        self.guard()
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"{self._path}: {error.strerror or error}", uri=str(self._path)
            ) from error

    def _damaged(self, reason: str) -> DatasetError:
        return DatasetError(
            f"{self._path}: is damaged ({reason}); delete it, or give another output",
            uri=str(self._path),
        )
