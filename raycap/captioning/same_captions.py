"""Watches the answered rows of a stream for one and the same caption of many images."""

import math
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.answers.same import SameCaption, SameCaptions
from raycap.captioning.prompts import Prompt
from raycap.errors import RunStopped
from raycap.text import brief

_COLUMNS = [schema.PROMPT, schema.IMAGE_ID, schema.DIGEST, schema.CAPTION, schema.LOGPROB]
_SHOWN_CHARACTERS = 80


class SameCaptionWatch:
    """Counts the captions of each prompt; typed answers are few by nature, and do not count."""

    def __init__(self, max_share: float | None, prompts: Sequence[Prompt]) -> None:
        """Begin.

        Args:
            max_share: The setting `answers.max_same_share`.
            prompts: Of the run.
        """
        self._max_share = max_share
        self._typed = {index for index, prompt in enumerate(prompts) if prompt.json_schema}
        self._counts: defaultdict[int, SameCaptions] = defaultdict(SameCaptions)
        self.suspected: SameCaption | None = None
        """The first caption for which the model seemed to ignore its images."""

    def add(self, answered: pa.Table) -> None:
        """Count ANSWERED rows.

        Raises:
            RunStopped: more images have the same caption than `answers.max_same_share` allows.
        """
        is_ok = pc.equal(answered[schema.STATUS], schema.STATUS_OK)
        captioned = answered.filter(is_ok).select(_COLUMNS)
        for prompt, *row in zip(*(column.to_pylist() for column in captioned.columns), strict=True):
            if prompt not in self._typed:
                self._count(self._counts[prompt], *row)
        for counts in self._counts.values():
            self.suspected = self.suspected or counts.suspected()
            self._check(counts)

    def _count(
        self,
        counts: SameCaptions,
        image_id: str,
        digest: str | None,
        caption: str,
        logprob: float | None,
    ) -> None:
        known = None if logprob is None or math.isnan(logprob) else logprob
        counts.add(digest or image_id, caption, known)

    def _check(self, counts: SameCaptions) -> None:
        found = None if self._max_share is None else counts.above(self._max_share)
        if found is not None:
            raise RunStopped(
                f"{describe(found)}: more than answers.max_same_share={self._max_share:g} allows; "
                "check the model, or raise the setting and run the same command to continue",
                setting="answers.max_same_share",
            )


def describe(found: SameCaption) -> str:
    """Say which caption how many images have."""
    caption = brief(found.caption, _SHOWN_CHARACTERS)
    return f"{found.num_images:,} of {found.num_of:,} different images have the caption {caption!r}"
