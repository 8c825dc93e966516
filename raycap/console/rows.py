"""Rows of a table that several commands print about a captioning run."""

from raycap.progress import Spent
from raycap.reporting.numbers import amount

Rows = list[tuple[str, str]]

_PICTURE_SUFFIXES = frozenset(
    [
        ".svg",
        ".svgz",
        ".eps",
        ".pdf",
        ".psd",
        ".ai",
        ".heic",
        ".heif",
        ".dng",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".rw2",
    ]
)
"""Suffixes of pictures; those that raycap reads are never skipped."""
_MANY = 0.2


def unread_pictures(num_images: int, skipped: dict[str, int]) -> Rows:
    """Return a row about pictures in formats that raycap does not read, if they are many."""
    found = {suffix: n for suffix, n in skipped.items() if suffix in _PICTURE_SUFFIXES and n}
    if sum(found.values()) < _MANY * (num_images + sum(found.values())):
        return []
    counts = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(found.items()))
    share = sum(found.values()) / (num_images + sum(found.values()))
    told = f"{counts}: {share:.0%} of all pictures; convert them, for example to PNG"
    return [("NOT READ", told)] if found else []


def failed_rows(num_failed: int, failed: dict[str, int]) -> Rows:
    """Return the number of failed images, and that of each error code."""
    codes = ((f"  {code}", f"{count:,}") for code, count in sorted(failed.items()))
    return [("failed", f"{num_failed:,}"), *codes]


def flagged_rows(flagged: dict[str, int]) -> Rows:
    """Return the number of doubtful captions that were kept, and that of each code, if any."""
    codes = ((f"  {code}", f"{count:,}") for code, count in sorted(flagged.items()))
    return [("flagged", f"{sum(flagged.values()):,}"), *codes] if flagged else []


def spent_rows(spent: Spent | None) -> Rows:
    """Return what a run has spent at endpoints, if it asks any."""
    if spent is None:
        return []
    rows = [("tokens", f"{spent.num_prompt_tokens:,} read, {spent.num_tokens:,} written")]
    return rows if spent.cost is None else [*rows, ("cost", amount(spent.cost))]


def gone_rows(num_gone: int) -> Rows:
    """Return a row about images that are no longer in the source, if there are any."""
    return [("gone from source", f"{num_gone:,}")] if num_gone else []


def edit_rows(edits: dict[str, int]) -> Rows:
    """Return a row about the captions that people have reviewed, if there are any."""
    counts = ", ".join(f"{count:,} {review}" for review, count in edits.items())
    return [("reviewed by people", counts)] if counts else []
