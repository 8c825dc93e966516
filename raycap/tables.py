"""Results as a person reads them: names and values in columns, on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.bulk.export import ExportCounts
from raycap.bulk.record import Summary
from raycap.bulk.status import Forecast
from raycap.bulk.verify import Verification
from raycap.demo.run import DemoResult


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values as two columns."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, escape(value))
    Console().print(table)


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """Say what a run came to."""
    rows = [
        ("images", f"{summary.num_images:,}"),
        ("captioned", f"{summary.num_ok:,}"),
        ("failed", f"{summary.num_failed:,}"),
        *((f"  {code}", f"{count:,}") for code, count in sorted(summary.failed.items())),
        ("mean words", f"{summary.mean_words:g}"),
    ]
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


def print_demo(result: DemoResult) -> None:
    """Print what the demonstration came to, some captions, and what to try next."""
    share = result.num_right / max(1, result.summary.num_ok)
    print_rows(
        [
            *summary_rows(result.summary),
            ("exactly right", f"{share:.1%} of the captions"),
            *verification_rows(result.verification)[-2:],
        ]
    )
    samples = Table("image", "caption", "", title="samples", title_justify="left", box=None)
    for sample in result.samples:
        mark = "[green]right[/green]" if sample.is_right else "[red]wrong[/red]"
        samples.add_row(escape(sample.image_id), escape(sample.caption), mark)
    Console().print(samples)
    Console().print(
        "\nTry next:\n"
        f"  raycap caption YOUR_FOLDER captions/ --model demo     your own images\n"
        f"  raycap caption YOUR_FOLDER blip/                      the same, by pretrained BLIP\n"
        f"  raycap export {result.captions} captions.jsonl --to jsonl",
        highlight=False,
        soft_wrap=True,
    )
