"""One edit of a caption, and the state of an image's caption after several.

An edit is never changed or deleted: undoing one is an edit, too. The state is a fold over the edits
of an image and a prompt, in the order of their ids.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from raycap.errors import ConfigError


class EditAction(StrEnum):
    """What a reviewer did."""

    TEXT = "text"
    """Wrote another text."""
    APPROVE = "approve"
    REJECT = "reject"
    CLEAR = "clear"
    """Returned to the caption of the run, unreviewed."""
    UNDO = "undo"
    """Undid an edit, or all edits of a batch, as if they had never been made."""


class Review(StrEnum):
    """What reviewers have made of a caption."""

    APPROVED = "approved"
    REJECTED = "rejected"
    EDITED = "edited"
    """Has another text, which nobody has approved or rejected since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One action of one reviewer on one caption. A line of a file in `edits/`."""

    edit_id: str = ""
    """Unique, and sorts in the order of saving; given by `EditWriter`, as are `at` and `by`."""
    at: str = ""
    """Time of saving, in UTC, by the clock of the reviewer's machine; it decides nothing."""
    by: str = ""
    """The reviewer."""
    image_id: str
    """Empty for the undoing of a batch."""
    prompt: str | None = None
    """The named prompt; None in a run without named prompts."""
    action: EditAction
    old: str | None = None
    """The text that the reviewer saw; None if there was no caption."""
    new: str | None = None
    """The text that the reviewer wrote instead."""
    digest: str | None = None
    """The `digest` of the row that the reviewer saw: which image it was."""
    etag: str | None = None
    """The `etag` of that row, which decides where one of both has no digest."""
    after: str | None = None
    """Id of the last edit of this caption that the reviewer saw, "" for none. None: not checked."""
    batch: str | None = None
    """Shared by the edits that were made at once, such as those of a find-and-replace."""
    undoes: str | None = None
    """The edit or the batch that is undone."""

    @property
    def key(self) -> tuple[str | None, str]:
        """The prompt and image whose caption it is about."""
        return self.prompt, self.image_id


def check_edit(edit: Edit) -> None:
    """Raise ConfigError if an edit cannot be saved."""
    fault = None
    if edit.action == EditAction.UNDO:
        fault = None if edit.undoes else "undoes nothing"
    elif not edit.image_id:
        fault = "names no image"
    elif edit.action == EditAction.TEXT:
        fault = _text_fault(edit.new)
    if fault is not None:
        raise ConfigError(f"edit of {edit.image_id!r}: {fault}", setting="edits")


def _text_fault(text: str | None) -> str | None:
    if text is None or not text.strip():
        return "has no text; reject the caption if none is right"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has half a character, which no table can hold"
    return "has a null character" if "\0" in text else None


_REVIEWS = {
    EditAction.TEXT: Review.EDITED,
    EditAction.APPROVE: Review.APPROVED,
    EditAction.REJECT: Review.REJECTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EditState:
    """The state of a caption after its edits."""

    image_id: str
    prompt: str | None = None
    text: str | None = None
    """The text that a reviewer wrote; None if the caption of the run counts."""
    review: Review | None = None
    seen: str | None = None
    """Of an approval or rejection of the run's caption: that caption."""
    digest: str | None = None
    etag: str | None = None
    """Which image the reviewers saw, as in Edit."""
    by: str = ""
    at: str = ""
    last: str = ""
    """Id of the last edit that counts."""

    def after(self, edit: Edit) -> "EditState":
        """Return the state after one more edit, which is not undone and undoes nothing."""
        # Of another image than before, so that what was written about that one is history.
        changed = version_differs(self.digest, self.etag, edit.digest, edit.etag)
        text = None if changed else self.text
        seen, review = None, _REVIEWS.get(edit.action)
        if edit.action == EditAction.TEXT:
            text = edit.new
        elif edit.action == EditAction.CLEAR:
            text = None
        elif text is None:
            seen = edit.old
        return EditState(
            image_id=self.image_id,
            prompt=self.prompt,
            text=text,
            review=review,
            seen=seen,
            digest=edit.digest,
            etag=edit.etag,
            by=edit.by,
            at=edit.at,
            last=edit.edit_id,
        )

    def is_stale(self, *, digest: str | None, etag: str | None, caption: str | None) -> bool:
        """Return whether it is about another image, or about another caption of the run.

        A text that a reviewer wrote does not depend on the run's caption; an approval of that does.

        Args:
            digest: of the present row.
            etag: of the present row.
            caption: of the present row, as the run wrote it.
        """
        if version_differs(self.digest, self.etag, digest, etag):
            return True
        return (
            self.text is None and self.review is not None and (self.seen or "") != (caption or "")
        )


def version_differs(
    digest: str | None, etag: str | None, other_digest: str | None, other_etag: str | None
) -> bool:
    """Return whether two versions of an image differ; False if that is unknown.

    Digests decide if both are known: a store gives another ETag to a file that was only touched.
    """
    if digest is not None and other_digest is not None:
        return digest != other_digest
    return etag is not None and other_etag is not None and etag != other_etag


def undone_by(edits: Iterable[Edit]) -> set[str]:
    """Return the ids of edits and batches that are undone, unless their undoing is undone.

    Args:
        edits: all edits of an output, sorted by id.
    """
    undone: set[str] = set()
    undoing = [edit for edit in edits if edit.action == EditAction.UNDO]
    for edit in reversed(undoing):  # an undoing is younger than what it undoes
        if edit.edit_id not in undone and edit.batch not in undone:
            assert edit.undoes is not None
            undone.add(edit.undoes)
    return undone


_FORM = TypeAdapter(Edit)
_DEFAULTS = {field.name: field.default for field in fields(Edit)}


def encode_edits(edits: Iterable[Edit]) -> bytes:
    """Encode edits as JSON Lines, without fields that have their default."""
    return b"".join(
        json.dumps(
            {
                name: value
                for name, default in _DEFAULTS.items()
                if (value := getattr(edit, name)) != default
            },
            ensure_ascii=False,
        ).encode()
        + b"\n"
        for edit in edits
    )


def decode_edits(data: bytes) -> list[Edit]:
    """Decode what `encode_edits` wrote. Raises ValueError if it is damaged."""
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line:
            continue
        try:
            edit = _FORM.validate_json(line)
            check_edit(edit)
        except (ValidationError, ConfigError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise ValueError(f"line {number}: {first}") from None
        found.append(edit)
    if data and not data.endswith(b"\n"):
        raise ValueError("its last line is cut off")
    return found
