"""`raycap caption`, `raycap status`, `raycap verify`, `raycap export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from raycap.cli.errors import stderr, told_errors
from raycap.cli.options import (
    ConfigOption,
    DebugOption,
    ModelOption,
    OutputArg,
    SetOption,
    SourceArg,
)
from raycap.config import CaptionConfig
from raycap.errors import EXIT_STOPPED, EXIT_TOO_MANY_FAILED, ConfigError
from raycap.settings import load_config


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
    from raycap.bulk.run import forecast
    from raycap.tables.bulk import forecast_rows
    from raycap.tables.columns import print_rows

    print_rows(forecast_rows(forecast(source, output, **choice)))


def _caption(source: str, output: str, choice: dict[str, Any], *, debug: bool) -> float:
    """Caption, print the summary, and return the share of failed images."""
    from raycap.bulk.run import caption as caption_images
    from raycap.progress import show_progress
    from raycap.tables.bulk import summary_rows
    from raycap.tables.columns import print_rows

    with show_progress(stderr()) as on_progress:
        summary = caption_images(source, output, on_progress=on_progress, debug=debug, **choice)
    print_rows(summary_rows(summary))
    return summary.failed_share


def _preflight(
    source: str, output: str, num_images: int, choice: dict[str, Any], *, debug: bool
) -> float:
    """Caption a sample, print what it tells, and return the share of failed images."""
    from raycap.preflight import preflight
    from raycap.progress import show_progress
    from raycap.tables.columns import print_rows
    from raycap.tables.preflight import preflight_notes, preflight_rows, preflight_sentence

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
        from raycap.bulk.heartbeat import read_status
        from raycap.tables.bulk import status_rows
        from raycap.tables.columns import print_rows

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
        from raycap.bulk.verify import verify as verify_output
        from raycap.tables.bulk import verification_rows
        from raycap.tables.columns import print_rows

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
        from raycap.bulk.export import ExportFormat
        from raycap.bulk.export import export as export_output
        from raycap.tables.bulk import export_rows
        from raycap.tables.columns import print_rows

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
