"""Saving of edits: one atomic file per saving, and no reviewer overwrites another unknowingly."""

import getpass
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile

from raycap.edits.history import History
from raycap.edits.log import PACK_SIZE, EditLog, edit_id, edit_key
from raycap.edits.records import (
    Edit,
    EditAction,
    EditState,
    check_edit,
    version_differs,
)
from raycap.errors import ConfigError, RaycapError, StorageError
from raycap.storage.base import Store

_MAX_ATTEMPTS = 100


class EditConflict(RaycapError):
    """Somebody else has edited a caption since the reviewer looked at it; nothing was saved."""

    def __init__(self, conflicts: Sequence[tuple[Edit, EditState]], uri: str) -> None:
        """Describe it.

        Args:
            conflicts: the refused edits, each with the present state of its caption.
            uri: address of the output.
        """
        edit, present = conflicts[0]
        more = f", and {len(conflicts) - 1:,} more" if len(conflicts) > 1 else ""
        super().__init__(
            f"{uri}: {edit.image_id}: was edited by {present.by or 'somebody'} meanwhile{more}; "
            "look at the caption again",
            uri=uri,
        )
        self.conflicts = list(conflicts)

    @property
    def present(self) -> EditState:
        """The present state of the first caption."""
        return self.conflicts[0][1]


def login_name() -> str:
    """Return the name of this user, for `by`; "unknown" where the system has none."""
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"


def new_batch() -> str:
    """Return a name for edits that are made at once."""
    return f"batch-{secrets.token_hex(6)}"


class EditWriter:
    """Saves the edits of one reviewer. One thread at a time."""

    def __init__(self, store: Store, by: str | None = None) -> None:
        """Read all edits of an output.

        Args:
            store: the output.
            by: the reviewer; None for the login name.

        Raises:
            ConfigError: the name is empty.
            DatasetError: a file of the edits is missing or damaged.
            StorageError: the store refuses.
        """
        self.by = login_name() if by is None else by.strip()
        if not self.by:
            raise ConfigError("the name of the reviewer is empty", setting="by")
        self._log = EditLog(store)
        self.history = History(self._log.read_new())
        self._unseen: list[Edit] = []

    def refresh(self) -> list[Edit]:
        """Return what others have saved since the last call; `history` has it, too."""
        self._read_new()
        unseen, self._unseen = self._unseen, []
        return unseen

    def _read_new(self) -> None:
        new = self._log.read_new()
        self.history.add(new)
        self._unseen += new

    def save(self, edits: Sequence[Edit]) -> list[Edit]:
        """Save edits at once: all of them or none.

        Args:
            edits: at most one per caption; `edit_id`, `at` and `by` are filled in.

        Returns:
            them, as they were saved.

        Raises:
            ConfigError: an edit lacks what its action needs.
            EditConflict: a caption is no longer what its reviewer saw: `old` differs from the text
                that somebody else wrote, or `after` from the last edit.
            StorageError: the store refuses.
        """
        for edit in edits:
            check_edit(edit)
        keys = {edit.key for edit in edits if edit.action != EditAction.UNDO}
        if len(keys) < sum(edit.action != EditAction.UNDO for edit in edits):
            raise ConfigError("two edits of one caption cannot be saved at once", setting="edits")
        return self._append(edits, self._refuse_conflicts) if edits else []

    def _append(
        self, edits: Sequence[Edit], check: Callable[[Sequence[Edit]], None] | None = None
    ) -> list[Edit]:
        for _ in range(_MAX_ATTEMPTS):
            self._read_new()
            if check is not None:
                check(edits)
            number, at = self._log.next_number, _now()
            saved = [
                replace(edit, edit_id=edit_id(number, line), at=at, by=self.by)
                for line, edit in enumerate(edits, start=1)
            ]
            if self._log.add(saved):
                self.history.add(saved)
                self._write_packs()
                return saved
        key = edit_key(self._log.next_number)
        raise StorageError(
            f"{self._log.store.address(key)}: cannot be written; if nobody is reviewing and the "
            "file is empty, delete it",
            uri=self._log.store.address(key),
        )

    def _refuse_conflicts(self, edits: Sequence[Edit]) -> None:
        found = [
            (edit, state)
            for edit in edits
            if edit.action != EditAction.UNDO
            and _conflicts(edit, state := self.history.state(edit.image_id, edit.prompt))
        ]
        if found:
            raise EditConflict(found, self._log.store.uri)

    def undo(self, name: str) -> list[Edit]:
        """Undo an edit, all edits of a batch, or an undoing: as if it had never been made.

        Edits of the same captions that others have made since remain.

        Args:
            name: an `edit_id`, or a `batch`.

        Returns:
            the edits that undo it.

        Raises:
            ConfigError: there is no such edit, or it is undone already.
            StorageError: the store refuses.
        """
        self._read_new()
        found = self.history.find(name)
        if not found:
            raise ConfigError(
                f"{self._log.store.uri}: has no edit or batch named {name!r}; "
                "`raycap edits list` shows them",
                uri=self._log.store.uri,
                setting="edits",
            )
        if all(map(self.history.is_undone, found)):
            raise ConfigError(
                f"{self._log.store.uri}: {name} is undone already",
                uri=self._log.store.uri,
                setting="edits",
            )
        is_one = found[0].edit_id == name
        image_id, prompt = (found[0].image_id, found[0].prompt) if is_one else ("", None)
        undo = Edit(image_id=image_id, prompt=prompt, action=EditAction.UNDO, undoes=name)
        return self._append([undo])

    def undo_since(self, by: str, since: datetime) -> list[Edit]:
        """Undo all edits that a reviewer made from a time on, as one batch.

        Args:
            by: the reviewer.
            since: the time, with its zone, by the clock of that reviewer's machine.

        Returns:
            the edits that undo them; none if there is nothing to undo.
        """
        self._read_new()
        batch = new_batch()
        undoing = [
            Edit(
                image_id=edit.image_id,
                prompt=edit.prompt,
                action=EditAction.UNDO,
                undoes=edit.edit_id,
                batch=batch,
            )
            for edit in self.history
            if edit.by == by
            and datetime.fromisoformat(edit.at) >= since
            and edit.action != EditAction.UNDO
            and not self.history.is_undone(edit)
        ]
        return self._append(undoing) if undoing else []

    def _write_packs(self) -> None:
        """Copy thousands of savings into packs, so that the next reader reads few files."""
        for first in self._log.packs_due():
            self._log.pack(first, list(_between(self.history, first, first + PACK_SIZE - 1)))


def _between(history: Iterable[Edit], first: int, last: int) -> Iterable[Edit]:
    """Return the edits of some savings; `history` is in order."""
    low, high = edit_id(first, 0), edit_id(last + 1, 0)
    return takewhile(lambda edit: edit.edit_id < high, (e for e in history if e.edit_id >= low))


def _conflicts(edit: Edit, present: EditState) -> bool:
    """Return whether a caption is no longer what the reviewer of an edit saw."""
    if edit.after is not None and edit.after != present.last:
        return True
    if present.text is None or version_differs(
        present.digest, present.etag, edit.digest, edit.etag
    ):
        return False  # the reviewer saw the caption of the run
    return edit.old != present.text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
