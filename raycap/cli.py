"""The command line: parse, load the config, call one function, print, exit with its code."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.config import CaptionConfig, load_config
from raycap.errors import (
    EXIT_STOPPED,
    EXIT_TOO_MANY_FAILED,
    RaycapError,
)

if TYPE_CHECKING:
    from raycap.bulk.record import Summary
    from raycap.bulk.run import Forecast
    from raycap.bulk.verify import Verification
    from raycap.demo.run import DemoResult

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

        if dry_run:
            found = run.forecast(
                source, output, config=resolved, limit=limit, retry_failed=retry_failed
            )
            _print_rows(_forecast_rows(found))
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
        _print_rows(_summary_rows(summary))
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

        found = verify_output(output, storage=resolved.storage)
        _print_rows(_verification_rows(found))
        for problem in found.problems:
            _stderr().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
        if found.num_problems > len(found.problems):
            _stderr().print(f"... and {found.num_problems - len(found.problems):,} more")
        if not found.is_complete:
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

        with show_progress(_stderr()) as on_progress:
            result = run_demo(folder, on_progress=on_progress, debug=debug)
        _print_demo(result)
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


def _print_rows(rows: list[tuple[str, str]]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, escape(value))
    _stdout().print(table)


def _summary_rows(summary: "Summary") -> list[tuple[str, str]]:
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


def _forecast_rows(forecast: "Forecast") -> list[tuple[str, str]]:
    return [
        ("images", f"{forecast.num_images:,}"),
        ("bytes", f"{forecast.num_bytes:,}"),
        ("parts", f"{forecast.num_parts:,}"),
        ("parts done", f"{forecast.num_parts_done:,}"),
        ("images done", f"{forecast.num_images_done:,}"),
        ("images to caption", f"{forecast.num_pending:,}"),
        *((f"not images {suffix}", f"{n:,}") for suffix, n in forecast.skipped.items() if n),
    ]


def _verification_rows(found: "Verification") -> list[tuple[str, str]]:
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


def _print_demo(result: "DemoResult") -> None:
    share = result.num_right / max(1, result.summary.num_ok)
    _print_rows(
        [
            *_summary_rows(result.summary),
            ("exactly right", f"{share:.1%} of the captions"),
            *_verification_rows(result.verification)[-2:],
        ]
    )
    samples = Table("image", "caption", "", title="samples", title_justify="left", box=None)
    for sample in result.samples:
        mark = "[green]right[/green]" if sample.is_right else "[red]wrong[/red]"
        samples.add_row(escape(sample.image_id), escape(sample.caption), mark)
    _stdout().print(samples)
    _stdout().print(
        "\nTry next:\n"
        f"  raycap caption YOUR_FOLDER captions/ --model demo     your own images\n"
        f"  raycap caption YOUR_FOLDER captions/                  the same, by pretrained BLIP\n"
        f"  raycap export {result.captions} captions.jsonl --to jsonl",
        highlight=False,
        soft_wrap=True,
    )


def _stdout() -> Console:
    return Console()


def _stderr() -> Console:
    return Console(stderr=True)


if __name__ == "__main__":
    main()
