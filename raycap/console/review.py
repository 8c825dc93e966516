"""`raycap review`."""

from typing import TYPE_CHECKING, Annotated

from raycap.config import ReviewConfig
from raycap.config.loading import load_config
from raycap.console.options import ConfigOption, DebugOption, argument, set_option
from raycap.console.terminal import print_rows, stderr, told_errors

if TYPE_CHECKING:
    from raycap.reviewing.review import ReviewSummary
    from raycap.reviewing.server import Server


def review(
    outputs: Annotated[
        list[str],
        argument(
            "OUTPUTS",
            "The output of `raycap caption` to review; then further outputs or files of captions "
            "to show beside it, and an evaluation of it, whose scores you can filter and sort by.",
        ),
    ],
    config: ConfigOption = None,
    settings: Annotated[list[str] | None, set_option("reviewer=Ada")] = None,
    debug: DebugOption = False,
) -> None:
    """Look through captions and correct them, on a web page of this machine.

    Opens the page in the browser, and serves it until you press Ctrl-C. Every edit is saved at once
    in a file of its own beside the captions, which stay as they are: `raycap edits` lists and
    undoes edits, and `raycap export`, `evaluate`, `report` and `prepare` read captions as they were
    edited. Several people can review one output at the same time.

    Example: `raycap review captions/`

    Exit codes: 0 ended by Ctrl-C; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(ReviewConfig, config, settings)
        from raycap.console.progress import show_progress
        from raycap.reviewing.review import review as review_output

        with show_progress(stderr()) as on_progress:
            found = review_output(
                outputs, config=resolved, on_ready=_print_address, on_progress=on_progress
            )
        print_rows(review_rows(found))


def _print_address(server: "Server") -> None:
    stderr().print(f"review at {server.address}", soft_wrap=True, markup=False, highlight=False)
    stderr().print("Ctrl-C ends it; every edit is saved already")


def review_rows(found: "ReviewSummary") -> list[tuple[str, str]]:
    """Return the result of a review as names and values."""
    rows = [
        ("saved", f"{found.num_saved:,} edits by {found.reviewer}"),
        ("approved", f"{found.num_approved:,}"),
        ("edited", f"{found.num_edited:,}"),
        ("rejected", f"{found.num_rejected:,}"),
        ("unreviewed", f"{found.num_unreviewed:,}"),
    ]
    return [*rows, ("stale", f"{found.num_stale:,}")] if found.num_stale else rows
