"""The command line: parse, load the config, call one function, print, exit with its code."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from raycap.config import CaptionConfig, load_config
from raycap.errors import (
    EXIT_STOPPED,
    EXIT_TOO_MANY_FAILED,
    RaycapError,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distributed image captioning on Ray: folders and S3 buckets, every image exactly once.",
)

SourceArg = Annotated[
    str,
    typer.Argument(
        help="A folder, a glob, `s3://bucket/prefix`, one image, or a list of addresses "
        "(.txt, .csv, .jsonl, .parquet with a column `uri`).",
        show_default=False,
    ),
]
OutputArg = Annotated[
    str, typer.Argument(help="A folder or `s3://bucket/prefix`.", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A Hub name, `name@revision`, a local folder, `demo` or `stub`. "
        "Default: Salesforce/blip-image-captioning-base.",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file of settings.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="A setting, such as `generation.num_beams=5`; may be repeated.",
        show_default=False,
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and the workers' own output.")
]


@app.command()
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
    with _told_errors(debug=debug):
        resolved = _caption_config(config, settings, model)
        from raycap.bulk import run
        from raycap.tables import forecast_rows, print_rows, summary_rows

        if dry_run:
            found = run.forecast(
                source, output, config=resolved, limit=limit, retry_failed=retry_failed
            )
            print_rows(forecast_rows(found))
            return
        from raycap.progress import show_progress

        with show_progress(_stderr()) as on_progress:
            summary = run.caption(
                source,
                output,
                config=resolved,
                limit=limit,
                retry_failed=retry_failed,
                on_progress=on_progress,
                debug=debug,
            )
        print_rows(summary_rows(summary))
        if summary.failed_share > resolved.engine.max_failed_share:
            _stderr().print(
                f"[red]{summary.failed_share:.1%} of the images failed, more than "
                f"engine.max_failed_share={resolved.engine.max_failed_share:g} allows[/red]"
            )
            raise typer.Exit(EXIT_TOO_MANY_FAILED)


@app.command()
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
    with _told_errors(debug=debug):
        resolved = _caption_config(config, settings, None)
        from raycap.bulk.verify import verify as verify_output
        from raycap.tables import print_rows, verification_rows

        found = verify_output(output, storage=resolved.storage)
        print_rows(verification_rows(found))
        for problem in found.problems:
            _stderr().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
        if found.num_problems > len(found.problems):
            _stderr().print(f"... and {found.num_problems - len(found.problems):,} more")
        if not found.is_complete:
            raise typer.Exit(EXIT_STOPPED)


@app.command()
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
    with _told_errors(debug=debug):
        resolved = _caption_config(config, settings, None)
        from raycap.bulk.export import ExportFormat
        from raycap.bulk.export import export as export_output
        from raycap.tables import export_rows, print_rows

        counts = export_output(
            output, destination, to=ExportFormat(to), force=force, storage=resolved.storage
        )
        print_rows([*export_rows(counts), ("written to", destination)])
        for problem in counts.unreadable:
            _stderr().print(f"[red]unreadable:[/red] {escape(problem)}", soft_wrap=True)
        if counts.num_unreadable:
            raise typer.Exit(EXIT_STOPPED)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(help="Where to put the images and the captions.")
    ] = Path("raycap-demo"),
    debug: DebugOption = False,
) -> None:
    """Render a few hundred scenes and some broken files, caption them all, and check.

    Needs no network and no GPU: the model ships with raycap.

    Example: `raycap demo`
    """
    with _told_errors(debug=debug):
        from raycap.demo.run import run_demo
        from raycap.progress import show_progress
        from raycap.tables import print_demo

        with show_progress(_stderr()) as on_progress:
            result = run_demo(folder, on_progress=on_progress, debug=debug)
        print_demo(result)
        if not result.verification.is_complete:
            raise typer.Exit(EXIT_STOPPED)


def main() -> None:
    """Run the command line. SIGTERM stops it as cleanly as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _told_errors(*, debug: bool) -> Iterator[None]:
    """Tell a user's mistake in one line, and exit with its code."""
    # A terminal has the progress bar; the log lines are for files and jobs.
    level = logging.WARNING if sys.stderr.isatty() and not debug else logging.INFO
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    _quiet_libraries()
    try:
        yield
    except RaycapError as error:
        if debug:
            raise
        _stderr().print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        _stderr().print("stopped; run the same command to continue")
        raise typer.Exit(EXIT_STOPPED) from None


def _quiet_libraries() -> None:
    """Leave the log to raycap's own events; warnings of others still show."""
    for name in ("botocore", "boto3", "urllib3", "httpx", "ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _caption_config(
    file: Path | None, settings: list[str] | None, model: str | None
) -> CaptionConfig:
    chosen = list(settings or [])
    if model is not None:
        chosen.append(f"model.name={model}")
    return load_config(CaptionConfig, file, chosen)


def _stderr() -> Console:
    return Console(stderr=True)


if __name__ == "__main__":
    main()
