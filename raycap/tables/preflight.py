"""What a preflight found, as names and values, and in one sentence."""

from raycap.bulk.estimate import Estimate, Stage
from raycap.bulk.forecast import Preflight
from raycap.report.numbers import amount, brief, decimal, integer, moment, percent, plural
from raycap.report.preflight_section import WORKERS, warnings


def preflight_rows(found: Preflight) -> list[tuple[str, str]]:
    """Say what a preflight found."""
    sample = found.sample
    rows = [
        ("sampled", f"{integer(sample.num_images)} of {plural(found.num_images, 'image')}"),
        ("captioned", integer(sample.num_ok)),
        ("failed", f"{integer(sample.num_failed)} ({percent(sample.failed_share)})"),
        *((f"  {code}", integer(number)) for code, number in sample.failed.items()),
    ]
    if sample.num_ok:
        rows.append(("mean words", decimal(sample.mean_words, 2)))
    if found.estimate is not None:
        rows += _estimate_rows(found.estimate, found.price_per_hour)
    return [*rows, ("contact sheet", f"{found.contact_sheet}   open it in a browser")]


def preflight_sentence(found: Preflight) -> str:
    """Say how long the run takes, in one sentence."""
    ahead = found.estimate
    if not found.num_pending:
        return "nothing is left to caption: every image has its row"
    images = plural(found.num_pending, "image")
    if ahead is None:
        return f"{images}: no estimate, as no sampled image reached the model"
    ends = "in more than a century" if found.ends_at is None else f"about {moment(found.ends_at)}"
    return (
        f"{images} at {decimal(ahead.images_per_s, 1)} images/s on "
        f"{plural(ahead.num_captioners, 'captioner')}: about {_span(ahead.run_s)} (ends {ends})"
    )


def preflight_notes(found: Preflight) -> list[str]:
    """Say what makes the estimate less than certain."""
    return [f"{what} {more}" for what, more in warnings(found)]


def _estimate_rows(ahead: Estimate, price_per_hour: float | None) -> list[tuple[str, str]]:
    rows = [(stage.name, _describe(stage, ahead.bottleneck)) for stage in ahead.stages]
    rows.append((f"{ahead.unit}-hours", amount(ahead.unit_hours)))
    if ahead.cost is not None:
        rows.append(("cost", f"{amount(ahead.cost)}, at {price_per_hour:g} an hour"))
    return rows


def _describe(stage: Stage, bottleneck: str) -> str:
    each = f"{brief(stage.seconds_per_image)} an image"
    workers = plural(stage.at_a_time, WORKERS[stage.name])
    if stage.images_per_s is None:
        return f"{each}; not told by a sample"
    mark = "   <- the bottleneck" if stage.name == bottleneck else ""
    return f"{each}, {workers}: {decimal(stage.images_per_s, 1)} images/s{mark}"


def _span(seconds: float) -> str:
    """Give a time in the words of a sentence."""
    if seconds >= 5400:
        return f"{decimal(seconds / 3600, 1)} hours"
    if seconds >= 90:
        return f"{decimal(seconds / 60, 0)} minutes"
    return plural(max(1, round(seconds)), "second")
