"""Terminal output: rows of names and values, one-line errors, and the log."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.errors import EXIT_STOPPED, RaycapError
from raycap.storage.address import redact_text


@contextmanager
def told_errors(*, debug: bool) -> Iterator[None]:
    """Print a RaycapError as one line and exit with its code; configure the log."""
    # A terminal shows the progress bar; log lines are for files and jobs.
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
        stderr().print(
            f"[bold red]error:[/bold red] {escape(redact_text(str(error)))}", soft_wrap=True
        )
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        stderr().print("stopped; run the same command to continue")
        raise typer.Exit(EXIT_STOPPED) from None


def _quiet_libraries() -> None:
    """Log only raycap's own events, and warnings of libraries."""
    for name in ("botocore", "boto3", "urllib3", "httpx", "matplotlib", "ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)


def stderr() -> Console:
    """Return standard error, for output that is not a result."""
    return Console(stderr=True)


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values as two columns."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows:
        table.add_row(name, escape(value))
    Console().print(table)
