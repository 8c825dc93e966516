"""Many different images with one and the same caption: a broken cache or model, noticed in a run.

Images are counted in windows, so that memory is bounded and a fault that begins late is noticed,
too. A set of images that are nearly alike (frames of a video, scans) may rightly have few captions.
But different images hardly ever give a caption the same score: a model is suspected only if the
score is the same as well, or unknown. Short answers ("yes") are few by nature, and do not count.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

WINDOW = 4_096
"""Images after which counting begins anew."""
LEAST_SUSPECTED = 200
"""Images before a model is suspected."""
SUSPECTED_SHARE = 0.5
"""Share of the images with the same caption and score from which on a model is suspected."""
LEAST_STOPPED = 1_000
"""Images before `answers.max_same_share` stops a run."""
_LEAST_BYTES = 20  # in UTF-8: four words, or seven letters of a script without spaces
_DECIMALS = 3  # of a score, which differs by less between batches


@dataclass(frozen=True, slots=True, kw_only=True)
class SameCaption:
    """A caption that many different images have."""

    caption: str
    num_images: int
    """Different images with it."""
    num_of: int
    """Different images that were counted."""

    @property
    def share(self) -> float:
        """Share of the images that have it."""
        return self.num_images / self.num_of


class SameCaptions:
    """Counts different images by their caption, for one prompt."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._seen: set[Hashable] = set()
        self._by_caption: Counter[str] = Counter()
        self._by_score: Counter[tuple[str, float | None]] = Counter()
        self._most: tuple[int, str] = (0, "")
        self._most_alike: tuple[int, str] = (0, "")

    def add(self, image: Hashable, caption: str, logprob: float | None) -> None:
        """Count a captioned image.

        Args:
            image: The digest of its file, or else its id: files of the same bytes count once.
            caption: Of the image.
            logprob: Of the caption; None if unknown.
        """
        if len(self._seen) >= WINDOW:
            self._begin()
        if image in self._seen or len(caption.encode()) < _LEAST_BYTES:
            return
        self._seen.add(image)
        scored = caption, None if logprob is None else round(logprob, _DECIMALS)
        self._by_caption[caption] += 1
        self._by_score[scored] += 1
        self._most = max(self._most, (self._by_caption[caption], caption))
        self._most_alike = max(self._most_alike, (self._by_score[scored], caption))

    def suspected(self) -> SameCaption | None:
        """Return the caption for which the model seems to ignore its images; None if none does."""
        num_images, caption = self._most_alike
        if len(self._seen) < LEAST_SUSPECTED or num_images < SUSPECTED_SHARE * len(self._seen):
            return None
        return SameCaption(caption=caption, num_images=num_images, num_of=len(self._seen))

    def above(self, max_share: float) -> SameCaption | None:
        """Return the caption that too many images have, whatever its score; None if none does."""
        num_images, caption = self._most
        if len(self._seen) < LEAST_STOPPED or num_images <= max_share * len(self._seen):
            return None
        return SameCaption(caption=caption, num_images=num_images, num_of=len(self._seen))
