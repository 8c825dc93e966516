"""The command line: parse arguments, load settings, call one function, print, exit."""

import io
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from raycap.console.calibrate import calibrate
from raycap.console.caption import CaptionCommand, caption
from raycap.console.demo import demo
from raycap.console.doctor import doctor
from raycap.console.edits import EDITS_COMMANDS
from raycap.console.evaluate import evaluate
from raycap.console.export import export
from raycap.console.prepare import prepare
from raycap.console.renamed import Command
from raycap.console.report import report
from raycap.console.review import review
from raycap.console.status import status
from raycap.console.study import study
from raycap.console.train import train
from raycap.console.tune import tune
from raycap.console.verify import verify
from raycap.errors import EXIT_STOPPED

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distributed image captioning on Ray: folders and S3 buckets, every image exactly once.",
)

COMMANDS = (
    caption,
    status,
    verify,
    export,
    prepare,
    evaluate,
    report,
    review,
    train,
    tune,
    study,
    calibrate,
    doctor,
    demo,
)
for command in COMMANDS:
    app.command(cls=CaptionCommand if command is caption else Command)(command)

edits = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List, undo, export and copy the corrections that people made to captions.",
)
for name, edits_command in EDITS_COMMANDS.items():
    edits.command(name, cls=Command)(edits_command)
app.add_typer(edits, name="edits")

ALL_COMMANDS: dict[str, Callable[..., None]] = {
    **{command.__name__: command for command in COMMANDS},
    **{f"edits {name}": command for name, command in EDITS_COMMANDS.items()},
}
"""Every command by its name, those of groups too."""


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"raycap {version('raycap')}")
        raise typer.Exit


@app.callback()
def _raycap(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version, and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Carry the options of `raycap` itself."""


def main() -> None:
    """Run the command line. SIGTERM and SIGHUP stop a run as cleanly as Ctrl-C."""
    _leave_script_folder()
    _print_any_name()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` sets it
        signal.signal(signal.SIGHUP, _hang_up)
    code: object = EXIT_STOPPED
    try:
        app()
    except SystemExit as ended:
        code = ended.code
        raise
    except KeyboardInterrupt:
        raise SystemExit(EXIT_STOPPED) from None
    finally:
        _leave_at_interrupt(code if isinstance(code, int) else 0)


def _leave_at_interrupt(code: int) -> None:
    """From now on, end at once at an interrupt.

    The command has ended. What is left, Ray's exit handlers above all, takes seconds and would
    answer an impatient second Ctrl-C with a traceback.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: os._exit(code))


def _leave_script_folder() -> None:
    """Import nothing from the folder of the script: `jobs/evaluate.py` is not `evaluate`."""
    folder, own = Path(sys.argv[0]).resolve().parent, Path(__file__).resolve().parents[2]
    if sys.path and sys.path[0] and Path(sys.path[0]).resolve() == folder != own:
        del sys.path[0]


def _print_any_name() -> None:
    """Print names that the terminal's encoding lacks, or that are not valid text, with escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _hang_up(_signal: int, _frame: object) -> None:
    """Interrupt; what is written to a terminal that is gone would fail, and goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(nowhere, stream)
    os.close(nowhere)
    raise KeyboardInterrupt
