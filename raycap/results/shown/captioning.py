"""Captioning runs as names and values: forecasts, summaries, states, verifications."""

from typing import Any

from raycap.progress import Spent
from raycap.results.captioning import Forecast, OutputStatus, Summary, Verification
from raycap.results.display import Rows, Shown
from raycap.text import amount, brief, duration

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


def summary_rows(summary: Summary) -> Rows:
    """Return the summary of a run as names and values."""
    rows = [
        ("images", f"{summary.num_images:,}"),
        *unread_pictures(summary.num_images, summary.skipped),
        ("captioned", f"{summary.num_ok:,}"),
        *failed_rows(summary.num_failed, summary.failed),
        *flagged_rows(summary.flagged),
        *_same_caption(summary.same_caption),
        ("mean words", f"{summary.mean_words:g}"),
        *spent_rows(summary.spent),
    ]
    if summary.num_copies:
        rows.append(("same bytes as another", f"{summary.num_copies:,}"))
    if summary.cascade:
        rows.append(("to second model", f"{summary.cascade['num_images']:,}"))
        if summary.cascade["num_failed"]:
            rows.append(("  kept first caption", f"{summary.cascade['num_failed']:,}"))
    if summary.num_captioned:
        rows += [
            ("this run", f"{summary.num_captioned:,} images in {summary.wall_s:.1f} s"),
            ("rate", f"{summary.images_per_s:g} images/s"),
        ]
    else:
        rows.append(("this run", "nothing to do: every image already has a row"))
    files = {name: count for name, count in summary.skipped.items() if name != _REPEATED}
    if files:
        skipped = ", ".join(f"{count} {suffix}" for suffix, count in files.items())
        rows.append(("not images", skipped))
    if summary.num_gone:
        rows.append(("gone from source", f"{summary.num_gone:,} (their rows are kept)"))
    return [
        *rows,
        *_empty_source(is_empty=summary.is_source_empty),
        *_repeated(summary.skipped, summary.repeated),
        ("output", summary.output),
    ]


def _same_caption(found: dict[str, Any]) -> Rows:
    """Return a row about one and the same caption of many images, as a broken model writes it."""
    if not found:
        return []
    counts = f"{found['num_images']:,} of {found['num_of']:,} different images"
    return [("SAME CAPTION", f"{counts}: {brief(found['caption'], 60)!r}; check the model")]


def _empty_source(*, is_empty: bool) -> Rows:
    """Return a row about a source that has lost all its images, such as a mount that is gone."""
    return [("source", "no images found: none was taken for gone")] if is_empty else []


_REPEATED = "duplicate"


def _repeated(skipped: dict[str, int], names: list[str]) -> Rows:
    """Return a row about images that a list has more than once, with the names of some."""
    count = skipped.get(_REPEATED, 0)
    if not count:
        return []
    more = ", ..." if count > len(names) else ""
    return [("listed again", f"{count:,}: {', '.join(names)}{more}" if names else f"{count:,}")]


def forecast_rows(forecast: Forecast) -> Rows:
    """Return what a run would do as names and values."""
    return [
        ("images", f"{forecast.num_images:,}"),
        *unread_pictures(forecast.num_images, forecast.skipped),
        ("bytes", f"{forecast.num_bytes:,}"),
        ("parts", f"{forecast.num_parts:,}"),
        ("parts done", f"{forecast.num_parts_done:,}"),
        ("images done", f"{forecast.num_images_done:,}"),
        ("images to caption", f"{forecast.num_pending:,}"),
        *([("captions to copy", f"{forecast.num_copies:,}")] if forecast.num_copies else []),
        *(
            (f"not images {suffix}", f"{n:,}")
            for suffix, n in forecast.skipped.items()
            if n and suffix != _REPEATED
        ),
        *_empty_source(is_empty=forecast.is_source_empty),
        *_repeated(forecast.skipped, forecast.repeated),
    ]


STATES = {
    "complete": "complete: every image has a row",
    "running": "running",
    "silent": "silent: no heartbeat; the run died or cannot reach its output: run the same command",
    "unfinished": "unfinished: every image has a row, but no summary: run the same command",
    "stopped": "stopped: run the same command to continue",
    "starting": "starting: listing images",
}


def status_rows(found: OutputStatus) -> Rows:
    """Return the progress of a captioning run as names and values."""
    rows = [("state", STATES.get(found.state, found.state))]
    beat = found.beat
    if beat is None or found.age_s is None:
        return rows
    share = beat.num_done / beat.num_total if beat.num_total else 1.0
    rows += [
        ("images", f"{beat.num_total:,}"),
        *unread_pictures(beat.num_total, found.skipped),
        ("done", f"{beat.num_done:,} ({share:.1%})"),
        ("failed", f"{beat.num_failed:,}"),
        *flagged_rows(beat.flagged),
    ]
    if beat.num_copies:
        rows.append(("same bytes as another", f"{beat.num_copies:,}"))
    rows += [*gone_rows(found.num_gone), *spent_rows(beat.spent), *edit_rows(found.edits)]
    if found.state == "running":
        rows.append(("rate", f"{beat.images_per_s:g} images/s"))
        left = beat.num_total - beat.num_done
        if beat.images_per_s:
            rows.append(("ETA", duration(left / beat.images_per_s)))
    return [
        *rows,
        ("started", beat.started_at),
        ("last heartbeat", f"{duration(found.age_s)} ago, from {beat.host}, pid {beat.pid}"),
    ]


def verification_rows(found: Verification) -> Rows:
    """Return the result of a verification as names and values."""
    if not found.is_sound:
        verdict = f"{found.num_problems:,} problems"
    elif found.num_pending:
        verdict = "sound but not complete: run the same `raycap caption` command again"
    elif not found.has_summary:
        verdict = (
            "every image has exactly one row, but the run wrote no summary: run the same `raycap "
            "caption` command again"
        )
    else:
        verdict = "complete: every image has exactly one row"
    return [
        ("images", f"{found.num_images:,}"),
        *unread_pictures(found.num_images, found.skipped),
        ("ok", f"{found.num_ok:,}"),
        *failed_rows(found.num_failed, found.failed),
        ("pending", f"{found.num_pending:,}"),
        *gone_rows(found.num_gone),
        *([("edits", f"{found.num_edits:,}")] if found.num_edits else []),
        ("verdict", verdict),
    ]


def show_summary(found: Summary) -> Shown:
    """Show the summary of a run."""
    return Shown(title="Captions", rows=summary_rows(found))


def show_forecast(found: Forecast) -> Shown:
    """Show what a run would do."""
    return Shown(title="Forecast", rows=forecast_rows(found))


def show_status(found: OutputStatus) -> Shown:
    """Show how far a run is."""
    return Shown(title="Status of captions", rows=status_rows(found))


def show_verification(found: Verification) -> Shown:
    """Show whether an output is complete."""
    problems = [("problem", problem) for problem in found.problems]
    notes = [("note", note) for note in found.notes]
    rows = [*verification_rows(found), *problems, *notes]
    return Shown(title="Verification of captions", rows=rows)
