"""`raycap doctor`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from raycap.config import CaptionConfig
from raycap.config.loading import load_config
from raycap.console.options import ConfigOption, DebugOption, ModelOption, SetOption
from raycap.console.terminal import told_errors
from raycap.errors import EXIT_STOPPED

_COLOURS = {"ok": "green", "poor": "yellow", "failed": "red"}


def doctor(
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Images to check: lists the first ones and reads one, on every node."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", help="Output to check: writes a small file there and deletes it."),
    ] = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Check this machine, its Ray cluster, and the source, output and model that are given.

    Example: `raycap doctor --source s3://my-bucket/photos --output s3://my-bucket/captions`

    Exit codes: 0 no check failed; 1 a check failed.
    """
    with told_errors(debug=debug):
        resolved = load_config(CaptionConfig, config, list(settings or []))
        from raycap.diagnostics import Verdict, examine

        console, has_failed = Console(), False
        checks = examine(
            source=source,
            output=output,
            model=model,
            storage=resolved.storage,
            engine=resolved.engine,
        )
        for check in checks:
            colour = _COLOURS[check.verdict]
            head = f"[{colour}]{check.verdict:<6}[/{colour}]  {check.name:<13}  "
            console.print(head + escape(check.found), soft_wrap=True)
            if check.remedy:
                console.print(f"{'':<23}-> {escape(check.remedy)}", soft_wrap=True)
            has_failed |= check.verdict is Verdict.FAILED
        if has_failed:
            raise typer.Exit(EXIT_STOPPED)
