"""A review: what the page shows, and what becomes of what its reader does.

The edits of an output are the truth; the index follows them. Whatever others save is read before
anything is saved here, and at most every two seconds before anything is shown.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from threading import Lock
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.captioning.output import FinishedOutput
from raycap.config import Section
from raycap.edits.history import History
from raycap.edits.records import Edit, EditAction, EditState
from raycap.edits.writing import EditConflict, EditWriter, new_batch
from raycap.errors import ConfigError
from raycap.results.labels import METRIC_LABELS
from raycap.reviewing.index import ITEM, ORIGINAL, REVIEW, STALE, STATES, VERSION, Index, untouched
from raycap.reviewing.pictures import picture_name
from raycap.reviewing.replacing import Rule, replaced
from raycap.reviewing.selection import Filter, Selections
from raycap.text import count_words

REFRESH_S = 2.0
MAX_CHANGES = 200_000
"""Captions that one find-and-replace may change."""
_SHOWN_CHANGES = 50
_NUM_CAPTIONS = 10_000


class Change(Section):
    """What a reviewer does with the caption of an item."""

    item: int
    action: EditAction
    old: str | None = None
    """The text that the page showed."""
    new: str | None = None
    """The text to put there, of the action `text`."""
    after: str = ""
    """Id of the last edit that the page showed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a find-and-replace would do; saved as it was shown, or not at all."""

    name: str
    changes: list[tuple[int, str]]
    """The new texts by item."""
    num_kept: int
    """Captions that match, but have to stay as they are."""
    rows: dict[int, dict[str, Any]]
    """The rows of the changes, as they were shown."""


@dataclass(kw_only=True)
class Session:
    """The review of one output; safe to use from many threads."""

    output: FinishedOutput
    index: Index
    writer: EditWriter
    _saving: Lock = field(default_factory=Lock)
    _refreshed_at: float = 0.0
    _preview: Preview | None = None
    _counts: dict[str, dict[str, int]] = field(default_factory=dict)
    num_saved: int = 0
    """Edits of this review, undone ones included."""

    def __post_init__(self) -> None:
        """Prepare the selections."""
        self.selections = Selections(self.index)

    def about(self) -> dict[str, Any]:
        """Return what the page needs once."""
        return {
            "output": self.output.store.uri,
            "reviewer": self.writer.by,
            "num_images": self.index.num_images,
            "prompts": [prompt for prompt in self.index.prompts if prompt is not None],
            "beside": list(self.index.beside),
            "metrics": list(self.index.metrics),
            "labels": METRIC_LABELS,
            "facets": self.index.facets,
        }

    def page(self, wanted: Filter, first: int, count: int, *, anew: bool = False) -> dict[str, Any]:
        """Return the items of a selection from a place on.

        Args:
            wanted: the filter.
            first: place of the first item, from 0.
            count: how many.
            anew: make the selection again; see `Selections.get`.

        Raises:
            ConfigError: the filter is not valid.
        """
        self._refresh_if_due()
        selection = self.selections.get(wanted, anew=anew)
        items = selection[first : first + count].tolist() if first >= 0 else []
        return {
            "total": len(selection),
            "first": first,
            "items": self.shown(items),
            "counts": self.counts(wanted.prompt),
        }

    def shown(self, items: Sequence[int]) -> list[dict[str, Any]]:
        """Return items as the page shows them."""
        beside = self.index.texts_beside(items)
        return [
            self._shown(row, beside.get(row[ITEM] % self.index.num_images, {}))
            for row in self.index.rows(items)
        ]

    def _shown(self, row: dict[str, Any], beside: dict[str, list[str]]) -> dict[str, Any]:
        names = (schema.URI, schema.ETAG, schema.DIGEST, "source_uri", "kept", *self.index.metrics)
        found = {name: value for name, value in row.items() if name not in names}
        state = self._state(row)
        return {
            **found,
            schema.LOGPROB: _finite(row[schema.LOGPROB]),
            VERSION: row[VERSION] or "",
            "prompt": self._prompt(row[ITEM]),
            "kept": dict(zip(self.index.keep, row["kept"] or (), strict=False)),
            "scores": {
                name: row[name] for name in self.index.metrics if _finite(row[name]) is not None
            },
            "beside": beside,
            "picture": picture_name(row),
            "by": state.by,
            "at": state.at,
            # What was written about another image, or another caption of the run.
            "stale_text": state.text if row[STALE] else None,
        }

    def details(self, item: int) -> dict[str, Any]:
        """Return an item with the answers to the other prompts, and its history.

        Raises:
            ConfigError: there is no such item.
        """
        row = self.row(item)
        image = item % self.index.num_images
        others = [
            number * self.index.num_images + image for number in range(len(self.index.prompts))
        ]
        history = self.writer.history
        return {
            "item": self.shown([item])[0],
            "prompts": [
                {"prompt": self._prompt(other[ITEM]), "caption": other[schema.CAPTION]}
                for other in self.index.rows([other for other in others if other != item])
            ],
            "history": [
                {
                    "edit_id": edit.edit_id,
                    "at": edit.at,
                    "by": edit.by,
                    "action": edit.action,
                    "new": edit.new,
                    "batch": edit.batch,
                    "is_undone": history.is_undone(edit),
                }
                for edit in history.of(row[schema.IMAGE_ID], self._prompt(item))
            ],
        }

    def row(self, item: int) -> dict[str, Any]:
        """Return the row of an item. Raises ConfigError if there is none."""
        if not 0 <= item < self.index.num_items:
            raise ConfigError(f"there is no item {item}", setting="item")
        return self.index.rows([item])[0]

    def counts(self, prompt: str = "") -> dict[str, int]:
        """Count the items of a prompt by their state."""
        counted = self._counts
        if prompt not in counted:
            counted[prompt] = self._count(prompt)
        return counted[prompt]

    def _count(self, prompt: str) -> dict[str, int]:
        place = self.index.prompts.index(prompt) if prompt in self.index.prompts else 0
        first = place * self.index.num_images
        rows = self.index.query(
            "SELECT CASE WHEN stale THEN 'stale' ELSE coalesce(review, 'unreviewed') END AS state, "
            "count(*) AS number FROM items WHERE item BETWEEN ? AND ? GROUP BY ALL",
            [first, first + self.index.num_images - 1],
        )
        return {row["state"]: row["number"] for row in rows}

    def save(self, change: Change) -> dict[str, Any]:
        """Save one edit; return its id and the item as it is now.

        Raises:
            EditConflict: somebody else has edited the caption since the page showed it.
            ConfigError: the edit is not valid.
            StorageError: the store refuses.
        """
        row = self.row(change.item)
        edit = self._edit(
            row, action=change.action, old=change.old, new=change.new, after=change.after
        )
        (saved,) = self._save([edit])
        return {"undo": saved.edit_id, "item": self.shown([change.item])[0]}

    def undo(self, name: str) -> dict[str, Any]:
        """Undo an edit or a batch; return the numbers of the items that it was about.

        Raises:
            ConfigError: there is no such edit, or it is undone already.
            StorageError: the store refuses.
        """
        with self._saving:
            saved = self.writer.undo(name)
            items = self._follow(saved)
        return {"num_items": len(items), "items": sorted(items)[:_SHOWN_CHANGES]}

    def preview(self, wanted: Filter, rule: Rule) -> dict[str, Any]:
        """Find what a rule changes in a selection; it can then be saved by its name.

        Raises:
            ConfigError: the rule is not valid, takes too long, or changes too many captions.
        """
        self.refresh()
        numbers = self.selections.get(wanted)
        changes: list[tuple[int, str]] = []
        num_kept = 0
        searched, num_rejected = numbers, 0
        if wanted.state != "rejected":  # a text would take the rejection back
            is_rejected = self.selections.of_state("rejected")[numbers]
            searched, num_rejected = numbers[~is_rejected], int(is_rejected.sum())
        for item, text in replaced(rule, self._captions(searched.tolist())):
            if text is None:
                num_kept += 1
                continue
            changes.append((item, text))
            if len(changes) > MAX_CHANGES:
                raise ConfigError(
                    f"more than {MAX_CHANGES:,} captions would change; filter the images first",
                    setting="find",
                )
        rows = {row[ITEM]: row for row in self._rows([item for item, _ in changes])}
        self._preview = Preview(name=token_hex(8), changes=changes, num_kept=num_kept, rows=rows)
        return {
            "name": self._preview.name,
            "num_searched": len(numbers),
            "num_changes": len(changes),
            "num_kept": num_kept,
            "num_rejected": num_rejected,
            "changes": [
                {
                    "image_id": rows[item][schema.IMAGE_ID],
                    "old": rows[item][schema.CAPTION],
                    "new": text,
                }
                for item, text in changes[:_SHOWN_CHANGES]
            ],
        }

    def replace(self, name: str) -> dict[str, Any]:
        """Save a find-and-replace as it was last shown, as one batch.

        Raises:
            EditConflict: somebody else has edited one of the captions since.
            ConfigError: it is not the one that was last shown.
            StorageError: the store refuses.
        """
        shown = self._preview
        if shown is None or shown.name != name:
            raise ConfigError("the preview is out of date; preview again", setting="preview")
        batch = new_batch()
        edits = [
            self._edit(
                shown.rows[item],
                action=EditAction.TEXT,
                old=shown.rows[item][schema.CAPTION],
                new=text,
                after=shown.rows[item][VERSION] or "",
                batch=batch,
            )
            for item, text in shown.changes
        ]
        self._save(edits)
        self._preview = None
        return {"undo": batch, "num_changes": len(edits)}

    def refresh(self) -> None:
        """Read what others have saved."""
        with self._saving:
            self._follow()

    def _refresh_if_due(self) -> None:
        if time.monotonic() - self._refreshed_at > REFRESH_S:
            self.refresh()

    def _save(self, edits: Sequence[Edit]) -> list[Edit]:
        saved: list[Edit] = []
        with self._saving:
            try:
                saved = self.writer.save(edits)
            finally:
                self._follow(saved)
        return saved

    def _follow(self, saved: Sequence[Edit] = ()) -> set[int]:
        """Bring the index up to date with what was saved; return the items concerned.

        Args:
            saved: what was saved here; what others have saved is read.
        """
        new = [*saved, *self.writer.refresh()]
        self.num_saved += len(saved)
        self._refreshed_at = time.monotonic()
        keys = {key for edit in new for key in self._keys_of(edit)}
        places = {prompt: number for number, prompt in enumerate(self.index.prompts)}
        images = self.index.find(sorted({image_id for _, image_id in keys})) if keys else {}
        items = {
            places[prompt] * self.index.num_images + images[image_id]
            for prompt, image_id in keys
            if prompt in places and image_id in images
        }
        if items:
            self.index.update(self._states(self._rows(sorted(items))))
            self._counts = {}
            self.selections.forget_order(schema.NUM_WORDS, REVIEW, *self.index.metrics)
        return items

    def _keys_of(self, edit: Edit) -> Iterable[tuple[str | None, str]]:
        """Yield the captions that an edit is about: of an undoing, those of what is undone."""
        if edit.action != EditAction.UNDO:
            yield edit.key
            return
        for undone in self.writer.history.find(edit.undoes or ""):
            yield from self._keys_of(undone)

    def _state(self, row: dict[str, Any]) -> EditState:
        image_id, prompt = row[schema.IMAGE_ID], self._prompt(row[ITEM])
        if row[VERSION] is None:
            return EditState(image_id=image_id, prompt=prompt)
        return self.writer.history.state(image_id, prompt)

    def _states(self, rows: Iterable[dict[str, Any]]) -> pa.Table:
        found = [
            state_row(row, self.writer.history.state(row[schema.IMAGE_ID], self._prompt(row[ITEM])))
            for row in rows
        ]
        return pa.Table.from_pylist(found, schema=STATES)

    def _prompt(self, item: int) -> str | None:
        return self.index.prompts[item // self.index.num_images]

    def _edit(
        self,
        row: dict[str, Any],
        *,
        action: EditAction,
        old: str | None,
        new: str | None = None,
        after: str,
        batch: str | None = None,
    ) -> Edit:
        return Edit(
            image_id=row[schema.IMAGE_ID],
            prompt=self._prompt(row[ITEM]),
            action=action,
            old=old,
            new=new,
            digest=row[schema.DIGEST],
            etag=row[schema.ETAG],
            after=after,
            batch=batch,
        )

    def _rows(self, items: Sequence[int]) -> Iterable[dict[str, Any]]:
        """Yield the rows of many items."""
        for first in range(0, len(items), _NUM_CAPTIONS):
            yield from self.index.rows(items[first : first + _NUM_CAPTIONS])

    def _captions(self, items: Sequence[int]) -> Iterable[tuple[int, str | None]]:
        for first in range(0, len(items), _NUM_CAPTIONS):
            chunk = items[first : first + _NUM_CAPTIONS]
            found = dict(self.index.captions(chunk))
            yield from ((item, found[item]) for item in chunk)


def _finite(value: float | None) -> float | None:
    """Return a number that JSON has; None for others."""
    return value if value is not None and math.isfinite(value) else None


def states_of(history: History, items: pa.Table, prompt: str | None) -> pa.Table:
    """Return the STATES of ITEMS of one prompt."""
    states = untouched(items)
    edited = (
        [
            place
            for place, image_id in enumerate(items[schema.IMAGE_ID].to_pylist())
            if (prompt, image_id) in history.keys
        ]
        if len(history)
        else []
    )
    if not edited:
        return states
    rows = items.take(edited).to_pylist()
    found = {row[ITEM]: state_row(row, history.state(row[schema.IMAGE_ID], prompt)) for row in rows}
    whole = [found.get(row[ITEM], row) for row in states.to_pylist()]
    return pa.Table.from_pylist(whole, schema=STATES)


def state_row(row: dict[str, Any], state: EditState) -> dict[str, Any]:
    """Return the STATES of one item.

    Args:
        row: the item, with the words of its text.
        state: what its edits make of it.
    """
    is_stale = (state.text is not None or state.review is not None) and state.is_stale(
        digest=row[schema.DIGEST], etag=row[schema.ETAG], caption=row[ORIGINAL]
    )
    text = row[ORIGINAL] if is_stale or state.text is None else state.text
    return {
        ITEM: row[ITEM],
        schema.CAPTION: text,
        schema.NUM_WORDS: None if text is None else count_words(text),
        REVIEW: None if is_stale or state.review is None else str(state.review),
        STALE: is_stale,
        VERSION: state.last or None,
    }


def describe_conflict(conflict: EditConflict, session: Session) -> dict[str, Any]:
    """Return what the page shows of a conflict: the present state of the first caption."""
    edit, present = conflict.conflicts[0]
    items = session.index.find([edit.image_id])
    place = session.index.prompts.index(edit.prompt)
    item = place * session.index.num_images + items[edit.image_id]
    return {
        "conflict": session.shown([item])[0],
        "by": present.by,
        "num_conflicts": len(conflict.conflicts),
    }
