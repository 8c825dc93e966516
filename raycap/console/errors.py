"""What a user is told: one line for a mistake, and a log that holds raycap's own events."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from raycap.errors import EXIT_STOPPED, RaycapError


@contextmanager
def told_errors(*, debug: bool) -> Iterator[None]:
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
        stderr().print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        stderr().print("stopped; run the same command to continue")
        raise typer.Exit(EXIT_STOPPED) from None


def _quiet_libraries() -> None:
    """Leave the log to raycap's own events; warnings of others still show."""
    for name in ("botocore", "boto3", "urllib3", "httpx", "matplotlib", "ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)


def stderr() -> Console:
    """Open standard error, for what is not a result."""
    return Console(stderr=True)
