"""A source that refuses access to every image stops the run, instead of becoming failed rows.

One image that may not be read is a row (`forbidden`); none that may be, or a thousand of these in a
row, are a mistake in the credentials. Rows are held back until the first image was read, so that a
run that stops has committed none of them, and continues when the mistake is corrected.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.errors import TRANSIENT_CODES, ErrorCode, StorageError

_UNREAD = pa.array(sorted({*TRANSIENT_CODES, ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}))
"""Codes of images whose files were not read. `too_large` may be known from the listing alone, but
then it is the size that keeps the image from its caption."""


_NEEDED = [schema.ERROR_CODE, schema.ERROR_MESSAGE]


class Refusals:
    """Passes answered rows on from the first readable image."""

    def __init__(self, max_refused: int, *, has_captions: bool) -> None:
        """Begin.

        Args:
            max_refused: Rows to wait for a readable image, and refused rows in a row that stop it.
            has_captions: Whether earlier invocations could read images: then fewer refused images
                than that are failed rows.
        """
        self._max_refused = max_refused
        self._has_captions = has_captions
        self._held: list[pa.Table] = []
        self._num_held = 0
        self._is_open = False
        self._num_in_a_row = 0

    def passed(self, answered: pa.Table) -> Iterator[pa.Table]:
        """Yield ANSWERED rows to commit: none yet, those held back too, or just these.

        Raises:
            StorageError: access to most of the first images is denied, and none was read; or later
                to that many in a row.
        """
        images = answered.select(_NEEDED).filter(answered[schema.IS_FIRST])
        if self._is_open:
            self._count_in_a_row(images)
            yield answered
            return
        self._held.append(answered)
        self._num_held += len(images)
        unread = pc.is_in(answered[schema.ERROR_CODE], value_set=_UNREAD)
        if not pc.all(unread, min_count=0).as_py():
            yield from self._release()
        elif self._num_held >= self._max_refused:
            self._check()
            yield from self._release()

    def rest(self) -> Iterator[pa.Table]:
        """Yield the rows still held back at the end of the stream; raises as `passed` does."""
        if not self._has_captions:
            self._check()
        yield from self._release()

    def _check(self) -> None:
        refused = [
            message
            for table in self._held
            for code, message, is_first in zip(
                table[schema.ERROR_CODE].to_pylist(),
                table[schema.ERROR_MESSAGE].to_pylist(),
                table[schema.IS_FIRST].to_pylist(),
                strict=True,
            )
            if code == ErrorCode.FORBIDDEN and is_first
        ]
        if 2 * len(refused) > self._num_held:
            raise _stop(f"none of {self._num_held:,} images can be read: {refused[0]}")

    def _count_in_a_row(self, images: pa.Table) -> None:
        refused = pc.equal(images[schema.ERROR_CODE], ErrorCode.FORBIDDEN)
        if not pc.any(refused, min_count=0).as_py():
            self._num_in_a_row = 0
            return
        for is_refused in refused.to_pylist():
            self._num_in_a_row = self._num_in_a_row + 1 if is_refused else 0
        if self._num_in_a_row >= self._max_refused:
            message = images[schema.ERROR_MESSAGE][-1].as_py()
            raise _stop(f"{self._num_in_a_row:,} images in a row cannot be read: {message}")

    def _release(self) -> Iterator[pa.Table]:
        self._is_open = True
        held, self._held = self._held, []
        yield from held


def _stop(what: str) -> StorageError:
    return StorageError(
        f"{what}; check the permissions and credentials, and run the same command to continue "
        "(with --retry-failed=forbidden for rows that it has already), or raise "
        "engine.max_refused if this many may stay unread",
        setting="engine.max_refused",
    )
