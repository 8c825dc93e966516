"""`raycap verify`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from raycap.console.options import ConfigOption, DebugOption, SetOption, load_caption_config
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.errors import EXIT_STOPPED

if TYPE_CHECKING:
    from raycap.results.captioning import Verification


def verify(
    output: Annotated[
        str, typer.Argument(help="The output of `raycap caption`.", show_default=False)
    ],
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Check that every image has exactly one row in OUTPUT, and that every part is readable.

    Example: `raycap verify captions/`

    Exit codes: 0 complete and sound; 1 problems found, images pending, or the run did not end.
    """
    with told_errors(debug=debug):
        resolved = load_caption_config(config, settings, None)
        from raycap.captioning.verify import verify as verify_output

        found = verify_output(output, storage=resolved.storage)
        print_rows(verification_rows(found))
        for problem in found.problems:
            stderr().print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
        if found.num_problems > len(found.problems):
            stderr().print(f"... and {found.num_problems - len(found.problems):,} more")
        if not found.is_complete:
            raise typer.Exit(EXIT_STOPPED)


def verification_rows(found: "Verification") -> list[tuple[str, str]]:
    """Return the result of a verification as names and values."""
    if not found.is_sound:
        verdict = f"{found.num_problems:,} problems"
    elif found.num_pending:
        verdict = "sound but not complete: run the same `raycap caption` command again"
    elif not found.has_summary:
        verdict = (
            "every image has exactly one row, but the run did not end: run the same `raycap "
            "caption` command again"
        )
    else:
        verdict = "complete: every image has exactly one row"
    return [
        ("images", f"{found.num_images:,}"),
        ("ok", f"{found.num_ok:,}"),
        ("failed", f"{found.num_failed:,}"),
        *((f"  {code}", f"{count:,}") for code, count in sorted(found.failed.items())),
        ("pending", f"{found.num_pending:,}"),
        *([("gone from source", f"{found.num_gone:,}")] if found.num_gone else []),
        ("verdict", verdict),
    ]
