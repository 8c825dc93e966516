"""`raycap demo`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycap.cli.errors import stderr, told_errors
from raycap.cli.options import DebugOption
from raycap.errors import EXIT_STOPPED
from raycap.status import Progress

if TYPE_CHECKING:
    from raycap.train.status import OnTrainingProgress


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to keep everything in.")
    ] = Path("raycap-demo"),
    debug: DebugOption = False,
) -> None:
    """Show the whole on rendered scenes: caption, fine-tune, caption again, evaluate, report.

    Needs no network and no GPU: a small pretrained BLIP ships with raycap. It takes some minutes
    on two cores. `demo.json` in the folder has the figures.

    Example: `raycap demo --output raycap-demo`
    """
    with told_errors(debug=debug):
        from raycap.demo.run import Stages, run_demo
        from raycap.tables.demo import print_demo

        result = run_demo(output, Stages(work=_work, training=_training), debug=debug)
        print_demo(result)
        if not result.verification.is_complete:
            raise typer.Exit(EXIT_STOPPED)


@contextmanager
def _work(stage: str) -> Iterator[Callable[[Progress], None]]:
    from raycap.progress import show_progress

    stderr().print(f"{stage} ...")
    with show_progress(stderr()) as on_progress:
        yield on_progress


@contextmanager
def _training(stage: str) -> Iterator["OnTrainingProgress"]:
    from raycap.progress import show_training

    stderr().print(f"{stage} ...")
    with show_training(stderr()) as on_progress:
        yield on_progress
