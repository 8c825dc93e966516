"""`raycap doctor`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from raycap.config import CaptionConfig
from raycap.config.loading import load_config
from raycap.console.errors import told_errors
from raycap.console.options import ConfigOption, DebugOption, ModelOption, SetOption
from raycap.errors import EXIT_STOPPED

_COLOURS = {"ok": "green", "poor": "yellow", "failed": "red"}


def doctor(
    source: Annotated[
        str | None,
        typer.Option("--source", help="Images: the first are listed, one is read."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", help="A small file is written there, and deleted."),
    ] = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Look whether this machine, its Ray, and what is named are fit for a run.

    Example: `raycap doctor --source s3://my-bucket/photos --output s3://my-bucket/captions`

    Exit codes: 0 nothing failed; 1 something that a run needs failed.
    """
    with told_errors(debug=debug):
        storage = load_config(CaptionConfig, config, list(settings or [])).storage
        from raycap.diagnostics import Verdict, examine

        console, has_failed = Console(), False
        for check in examine(source=source, output=output, model=model, storage=storage):
            colour = _COLOURS[check.verdict]
            head = f"[{colour}]{check.verdict:<6}[/{colour}]  {check.name:<13}  "
            console.print(head + escape(check.found), soft_wrap=True)
            if check.remedy:
                console.print(f"{'':<23}-> {escape(check.remedy)}", soft_wrap=True)
            has_failed |= check.verdict is Verdict.FAILED
        if has_failed:
            raise typer.Exit(EXIT_STOPPED)
