"""`raycap doctor`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from raycap.config import CaptionConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    CaptionSetOption,
    ConfigOption,
    DebugOption,
    JsonOption,
    print_json,
)
from raycap.console.terminal import told_errors
from raycap.errors import EXIT_STOPPED

if TYPE_CHECKING:
    from raycap.diagnostics import Check

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
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model to check: loads it and captions a grey image. A Hub name, "
            "`name@revision`, a local folder, `demo` or `stub`.",
        ),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
    settings: CaptionSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Check this machine, its Ray cluster, and the source, output and model that you give.

    Example: `raycap doctor --source s3://my-bucket/photos --output s3://my-bucket/captions`

    Exit codes: 0 no check failed; 1 a check failed; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(CaptionConfig, config, settings)
        from raycap.diagnostics import Verdict, examine

        checks = []
        for check in examine(
            source=source,
            output=output,
            model=model,
            storage=resolved.storage,
            engine=resolved.engine,
        ):
            checks.append(check)
            if not json:
                _print_check(check)
        has_failed = any(check.verdict is Verdict.FAILED for check in checks)
        if json:
            print_json({"is_ok": not has_failed, "checks": [asdict(check) for check in checks]})
        if has_failed:
            raise typer.Exit(EXIT_STOPPED)


def _print_check(check: "Check") -> None:
    colour = _COLOURS[check.verdict]
    head = f"[{colour}]{check.verdict:<6}[/{colour}]  {check.name:<13}  "
    Console().print(head + escape(check.found), soft_wrap=True)
    if check.remedy:
        Console().print(f"{'':<23}-> {escape(check.remedy)}", soft_wrap=True)
