"""What captioning, verifying and exporting came to, as names and values."""

from raycap.bulk.export import ExportCounts
from raycap.bulk.forecast import Forecast
from raycap.bulk.heartbeat import OutputStatus
from raycap.bulk.record import Summary
from raycap.bulk.verify import Verification
from raycap.report.numbers import duration


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Say what a run came to."""
    rows = [
        ("images", f"{summary.num_images:,}"),
        ("captioned", f"{summary.num_ok:,}"),
        ("failed", f"{summary.num_failed:,}"),
        *((f"  {code}", f"{count:,}") for code, count in sorted(summary.failed.items())),
        ("mean words", f"{summary.mean_words:g}"),
    ]
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
        rows.append(("this run", "nothing to do: every image had its row"))
    if summary.skipped:
        skipped = ", ".join(f"{count} {suffix}" for suffix, count in summary.skipped.items())
        rows.append(("not images", skipped))
    return [*rows, ("output", summary.output)]


def forecast_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """Say what a run would do."""
    return [
        ("images", f"{forecast.num_images:,}"),
        ("bytes", f"{forecast.num_bytes:,}"),
        ("parts", f"{forecast.num_parts:,}"),
        ("parts done", f"{forecast.num_parts_done:,}"),
        ("images done", f"{forecast.num_images_done:,}"),
        ("images to caption", f"{forecast.num_pending:,}"),
        *((f"not images {suffix}", f"{n:,}") for suffix, n in forecast.skipped.items() if n),
    ]


_STATES = {
    "complete": "complete: every image has its row",
    "running": "running",
    "silent": "silent: it has died, or does not reach its output; the same command continues it",
    "stopped": "stopped: the same command continues it",
    "starting": "starting: images are being listed",
}


def status_rows(found: OutputStatus) -> list[tuple[str, str]]:
    """Say how far a run is."""
    rows = [("state", _STATES[found.state])]
    beat = found.beat
    if beat is None or found.age_s is None:
        return rows
    share = beat.num_done / beat.num_total if beat.num_total else 1.0
    rows += [
        ("images", f"{beat.num_total:,}"),
        ("done", f"{beat.num_done:,} ({share:.1%})"),
        ("failed", f"{beat.num_failed:,}"),
    ]
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


def verification_rows(found: Verification) -> list[tuple[str, str]]:
    """Say what verifying found."""
    if not found.is_sound:
        verdict = f"{found.num_problems:,} problems"
    elif found.num_pending:
        verdict = "sound, not complete: run the same `raycap caption` command again"
    else:
        verdict = "complete: every image has exactly one row"
    return [
        ("images", f"{found.num_images:,}"),
        ("ok", f"{found.num_ok:,}"),
        ("failed", f"{found.num_failed:,}"),
        *((f"  {code}", f"{count:,}") for code, count in sorted(found.failed.items())),
        ("pending", f"{found.num_pending:,}"),
        ("verdict", verdict),
    ]


def export_rows(counts: ExportCounts) -> list[tuple[str, str]]:
    """Say what an export came to."""
    rows = [("exported", f"{counts.num_exported:,}"), ("files", f"{counts.num_files:,}")]
    if counts.num_failed_skipped:
        rows.append(("without a caption", f"{counts.num_failed_skipped:,}"))
    if counts.num_unreadable:
        rows.append(("unreadable now", f"{counts.num_unreadable:,}"))
    return rows
