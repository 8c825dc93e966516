"""`raycap verify`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from raycap.console.options import (
    AnyOutputArg,
    ConfigOption,
    DebugOption,
    JsonOption,
    StorageSetOption,
    load_storage,
    print_json,
)
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.errors import EXIT_STOPPED

if TYPE_CHECKING:
    from raycap.results.captioning import Verification
    from raycap.results.outputs import Completeness


def verify(
    output: AnyOutputArg,
    json: JsonOption = False,
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Check that OUTPUT is complete; for captions, that every image has exactly one row.

    The output of any command but `raycap caption` is complete if its work has ended and every file
    that its records name exists.

    Example: `raycap verify captions/`

    Exit codes: 0 complete and sound; 1 problems found, or not complete; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.inspection import verify as verify_output
        from raycap.results.outputs import Completeness
        from raycap.results.shown.captioning import verification_rows
        from raycap.results.shown.work import completeness_rows

        found = verify_output(output, storage=load_storage(config, settings))
        if json:
            print_json(verification_fields(found))
        elif isinstance(found, Completeness):
            print_rows(completeness_rows(found))
            _print_problems(found.problems, len(found.problems))
        else:
            print_rows(verification_rows(found))
            _print_problems(found.problems, found.num_problems)
            for note in found.notes:
                stderr().print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
        if not found.is_complete:
            raise typer.Exit(EXIT_STOPPED)


def _print_problems(problems: list[str], num_problems: int) -> None:
    for problem in problems:
        stderr().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
    if num_problems > len(problems):
        stderr().print(f"... and {num_problems - len(problems):,} more")


def verification_fields(found: "Verification | Completeness") -> dict[str, object]:
    """Return the result of a verification as JSON: the fields of its type, and the verdicts."""
    from raycap.results.outputs import Completeness, OutputKind

    fields: dict[str, object] = asdict(found)
    if isinstance(found, Completeness):
        fields = {**asdict(found.status), "problems": found.problems}
    verdicts = {"is_complete": found.is_complete, "is_sound": found.is_sound}
    return {"kind": OutputKind.CAPTIONS, **fields, **verdicts}
