"""The command line: parse, load the config, call one function, print, exit with its code."""

import signal

import typer

from raycap.console.calibration import calibrate
from raycap.console.captioning import caption, export, status, verify
from raycap.console.demo import demo
from raycap.console.doctor import doctor
from raycap.console.evaluation import evaluate, prepare, report
from raycap.console.study import study
from raycap.console.training import train
from raycap.console.tuning import tune

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
    app.command()(command)


def main() -> None:
    """Run the command line. SIGTERM stops it as cleanly as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
