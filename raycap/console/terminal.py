"""Terminal output: rows of names and values, one-line errors, and the log."""

import errno
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

_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EIO,
}
"""Errors of a full disk, a read-only folder or a limit that was reached: not a bug."""


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
    except OSError as error:
        if debug or not _is_of_the_machine(error):
            raise
        where = f": {error.filename}" if error.filename else ""
        stderr().print(
            f"[bold red]error:[/bold red] {escape(f'{error.strerror}{where}')}; finished work is "
            "kept: remove the cause and run the same command again (--debug shows where it failed)",
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_STOPPED) from None
    except KeyboardInterrupt:
        stderr().print("stopped; run the same command to continue")
        raise typer.Exit(EXIT_STOPPED) from None


def _is_of_the_machine(error: OSError) -> bool:
    # No folder for temporary files: the only error of its number without a file.
    is_homeless = error.errno == errno.ENOENT and error.filename is None
    return error.errno in _OF_THE_MACHINE or is_homeless


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
