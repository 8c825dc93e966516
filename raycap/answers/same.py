"""Many different images with one and the same caption: a broken cache or model, noticed in a run.

Counted over windows of rows, so that memory is bounded and a fault that begins late is noticed too.
A set of images that are nearly alike (frames of a video, scans) may have few captions rightly. But
different images hardly ever give a caption the same score: the model is suspected only if the score
is the same, too, or unknown. Answers of a few words ("yes") are few by nature, and do not count.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from raycap.text import count_words

_WINDOW = 4_096
_LEAST_TOLD = 200
_LEAST_STOPPED = 1_000
_TOLD_SHARE = 0.5
_LEAST_WORDS = 4
_DECIMALS = 3  # of a score: arithmetic differs by less between batches


@dataclass(frozen=True, slots=True, kw_only=True)
class SameCaption:
    """A caption that many different images have."""

    caption: str
    num_images: int
    """Different images with it, in the window."""
    num_of: int
    """Different images in the window."""
    prompt: int = 0
    """Index of the prompt."""

    @property
    def share(self) -> float:
        """Share of the images that have it."""
        return self.num_images / self.num_of


class SameCaptions:
    """Counts images by caption, for one prompt. Memory is bounded by the window."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()
        self._by_caption: Counter[str] = Counter()
        self._by_score: Counter[tuple[str, float | None]] = Counter()

    def add(self, image: Hashable, caption: str, logprob: float | None) -> None:
        """Count a captioned image.

        Args:
            image: The digest of its file, or else its id: files with the same bytes count once.
            caption: Of the image.
            logprob: Of the caption; None if unknown.
        """
        if len(self._seen) >= _WINDOW:
            self._seen.clear()
            self._by_caption.clear()
            self._by_score.clear()
        if image in self._seen or count_words(caption) < _LEAST_WORDS:
            return
        self._seen.add(image)
        self._by_caption[caption] += 1
        score = None if logprob is None else round(logprob, _DECIMALS)
        self._by_score[caption, score] += 1

    def suspected(self) -> SameCaption | None:
        """Return the caption that shows that the model ignores its images; None if none does."""
        if len(self._seen) < _LEAST_TOLD:
            return None
        (caption, _), num_images = self._by_score.most_common(1)[0]
        found = SameCaption(caption=caption, num_images=num_images, num_of=len(self._seen))
        return found if found.share >= _TOLD_SHARE else None

    def above(self, max_share: float) -> SameCaption | None:
        """Return the caption that too many images have, whatever its score; None if none does."""
        if len(self._seen) < _LEAST_STOPPED:
            return None
        caption, num_images = self._by_caption.most_common(1)[0]
        found = SameCaption(caption=caption, num_images=num_images, num_of=len(self._seen))
        return found if found.share > max_share else None
