"""The command line: parse arguments, load settings, call one function, print, exit."""

import signal

import typer

from raycap.console.calibrate import calibrate
from raycap.console.caption import CaptionCommand, caption
from raycap.console.demo import demo
from raycap.console.doctor import doctor
from raycap.console.evaluate import evaluate
from raycap.console.export import export
from raycap.console.prepare import prepare
from raycap.console.report import report
from raycap.console.status import status
from raycap.console.study import study
from raycap.console.train import train
from raycap.console.tune import tune
from raycap.console.verify import verify

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
    train,
    tune,
    study,
    calibrate,
    doctor,
    demo,
)
for command in COMMANDS:
    app.command(cls=CaptionCommand if command is caption else None)(command)


def main() -> None:
    """Run the command line. SIGTERM stops a run as cleanly as Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
