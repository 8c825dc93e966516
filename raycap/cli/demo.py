"""`raycap demo`."""

from pathlib import Path
from typing import Annotated

import typer

from raycap.cli.errors import stderr, told_errors
from raycap.cli.options import DebugOption
from raycap.errors import EXIT_STOPPED


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
    with told_errors(debug=debug):
        from raycap.demo.run import run_demo
        from raycap.progress import show_progress
        from raycap.tables.demo import print_demo

        with show_progress(stderr()) as on_progress:
            result = run_demo(folder, on_progress=on_progress, debug=debug)
        print_demo(result)
        if not result.verification.is_complete:
            raise typer.Exit(EXIT_STOPPED)
