"""The command line, run in this process: for tests that need no process of their own."""

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from raycap.console import app


def function_name(command: str) -> str:
    """Return the name of a command's function: `edits list` is `list_edits`."""
    group, _, verb = command.rpartition(" ")
    return f"{verb}_{group}" if group else verb


@dataclass(frozen=True)
class InProcess:
    """Run commands as `tests.support.commandline.CommandLine` does; the working folder is `folder`.

    A command that needs Ray uses the one that this process is connected to.
    """

    folder: Path

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Run to the end; return exit code, standard output and standard error."""
        found = CliRunner().invoke(
            app, [str(argument) for argument in arguments], prog_name="raycap"
        )
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found.exit_code, found.stdout, found.stderr
