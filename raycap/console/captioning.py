"""`raycap caption`, `raycap status`, `raycap verify`, `raycap export`.

What captioning, verifying and exporting came to, as names and values.

What a preflight found, as names and values, and in one sentence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from raycap.captioning.export import ExportCounts
from raycap.captioning.forecast import Estimate, Forecast, Preflight, Stage
from raycap.captioning.record import Summary
from raycap.captioning.status import OutputStatus
from raycap.captioning.verify import Verification
from raycap.config import CaptionConfig
from raycap.config.loading import load_config
from raycap.console.errors import stderr, told_errors
from raycap.console.options import (
    ConfigOption,
    DebugOption,
    ModelOption,
    OutputArg,
    SetOption,
    SourceArg,
)
from raycap.errors import EXIT_STOPPED, EXIT_TOO_MANY_FAILED, ConfigError
from raycap.reporting.numbers import (
    amount,
    brief,
    decimal,
    duration,
    integer,
    moment,
    percent,
    plural,
)
from raycap.reporting.preflight import WORKERS, warnings


def caption(
    source: SourceArg,
    output: OutputArg,
    model: ModelOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Caption only the first images, in key order."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed for a passing reason.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    preflight: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Caption so many images drawn at random, and say what captioning all of them "
            "takes. Writes OUTPUT/preflight and no caption.",
            show_default=False,
        ),
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option("--cascade", help="A second, larger model for weak captions; with --below."),
    ] = None,
    below: Annotated[
        float | None,
        typer.Option("--below", help="Captions of a lower logprob are weak, such as -1.2."),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Caption every image of SOURCE, each exactly once, into OUTPUT.

    The same command continues an interrupted run, and captions what is new or changed after a
    complete one.

    Example: `raycap caption photos/ captions/ --model demo --set generation.num_beams=5`

    Exit codes: 0 complete; 1 stopped; 2 usage or config; 3 complete, with a larger share of
    failed images than engine.max_failed_share.
    """
    with told_errors(debug=debug):
        resolved = _caption_config(
            config, settings, model, [("cascade.model", cascade), ("cascade.below", below)]
        )
        if dry_run and preflight is not None:
            raise ConfigError("--dry-run captions nothing, --preflight a sample: give one of them")
        choice = {"config": resolved, "limit": limit, "retry_failed": retry_failed}
        if dry_run:
            _print_forecast(source, output, choice)
            return
        if preflight is not None:
            failed_share = _preflight(source, output, preflight, choice, debug=debug)
        else:
            failed_share = _caption(source, output, choice, debug=debug)
        if failed_share > resolved.engine.max_failed_share:
            stderr().print(
                f"[red]{failed_share:.1%} of the images failed, more than "
                f"engine.max_failed_share={resolved.engine.max_failed_share:g} allows[/red]"
            )
            raise typer.Exit(EXIT_TOO_MANY_FAILED)


def _print_forecast(source: str, output: str, choice: dict[str, Any]) -> None:
    from raycap.captioning.run import forecast
    from raycap.console.columns import print_rows

    print_rows(forecast_rows(forecast(source, output, **choice)))


def _caption(source: str, output: str, choice: dict[str, Any], *, debug: bool) -> float:
    """Caption, print the summary, and return the share of failed images."""
    from raycap.captioning.run import caption as caption_images
    from raycap.console.columns import print_rows
    from raycap.console.progress import show_progress

    with show_progress(stderr()) as on_progress:
        summary = caption_images(source, output, on_progress=on_progress, debug=debug, **choice)
    print_rows(summary_rows(summary))
    return summary.failed_share


def _preflight(
    source: str, output: str, num_images: int, choice: dict[str, Any], *, debug: bool
) -> float:
    """Caption a sample, print what it tells, and return the share of failed images."""
    from raycap.console.columns import print_rows
    from raycap.console.progress import show_progress
    from raycap.preflights.run import preflight

    with show_progress(stderr()) as on_progress:
        found = preflight(
            source, output, num_images, on_progress=on_progress, debug=debug, **choice
        )
    print_rows(preflight_rows(found))
    print(f"\n{preflight_sentence(found)}")
    for note in preflight_notes(found):
        print(note)
    return found.sample.failed_share


def status(
    output: Annotated[
        str, typer.Argument(help="What `raycap caption` writes to.", show_default=False)
    ],
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Say how far the run that writes to OUTPUT is, from its files alone.

    Works from any machine that reaches OUTPUT, while the run goes on elsewhere.

    Example: `raycap status s3://my-bucket/captions`

    Exit codes: 0 complete or running; 1 stopped, or silent for long.
    """
    with told_errors(debug=debug):
        resolved = _caption_config(config, settings, None)
        from raycap.captioning.status import read_status
        from raycap.console.columns import print_rows

        found = read_status(output, storage=resolved.storage)
        print_rows(status_rows(found))
        if found.state in ("stopped", "silent"):
            raise typer.Exit(EXIT_STOPPED)


def verify(
    output: Annotated[str, typer.Argument(help="What `raycap caption` wrote.", show_default=False)],
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Check that every image of OUTPUT has exactly one row, and that every part is whole.

    Example: `raycap verify captions/`

    Exit codes: 0 complete and sound; 1 something is wrong or pending.
    """
    with told_errors(debug=debug):
        resolved = _caption_config(config, settings, None)
        from raycap.captioning.verify import verify as verify_output
        from raycap.console.columns import print_rows

        found = verify_output(output, storage=resolved.storage)
        print_rows(verification_rows(found))
        for problem in found.problems:
            stderr().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
        if found.num_problems > len(found.problems):
            stderr().print(f"... and {found.num_problems - len(found.problems):,} more")
        if not found.is_complete:
            raise typer.Exit(EXIT_STOPPED)


def export(
    output: Annotated[str, typer.Argument(help="What `raycap caption` wrote.", show_default=False)],
    destination: Annotated[
        str,
        typer.Argument(
            help="A file for jsonl, csv, parquet and coco; a folder for sidecar and webdataset. "
            "Local, or `s3://bucket/key`.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Literal["jsonl", "csv", "parquet", "sidecar", "webdataset", "coco"],
        typer.Option("--to", help="The format.", show_default=False),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace what stands there with other content.")
    ] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Write the captions of a finished run in a format that other tools read.

    Example: `raycap export captions/ captions.jsonl --to jsonl`

    Exit codes: 0 all exported; 1 stopped, or images could not be read any more.
    """
    with told_errors(debug=debug):
        resolved = _caption_config(config, settings, None)
        from raycap.captioning.export import ExportFormat
        from raycap.captioning.export import export as export_output
        from raycap.console.columns import print_rows

        counts = export_output(
            output, destination, to=ExportFormat(to), force=force, storage=resolved.storage
        )
        print_rows([*export_rows(counts), ("written to", destination)])
        for problem in counts.unreadable:
            stderr().print(f"[red]unreadable:[/red] {escape(problem)}", soft_wrap=True)
        if counts.num_unreadable:
            raise typer.Exit(EXIT_STOPPED)


def _caption_config(
    file: Path | None,
    settings: list[str] | None,
    model: str | None,
    options: Sequence[tuple[str, object]] = (),
) -> CaptionConfig:
    named = [("model.name", model), *options]
    chosen = [*(settings or []), *(f"{name}={value}" for name, value in named if value is not None)]
    return load_config(CaptionConfig, file, chosen)


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
