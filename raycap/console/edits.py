"""`raycap edits`: the commands `list`, `undo`, `export` and `copy`."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.config import Existing
from raycap.console.options import (
    CaptionsArg,
    ConfigOption,
    DebugOption,
    JsonOption,
    StorageSetOption,
    argument,
    load_storage,
    print_json,
)
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.text import brief

if TYPE_CHECKING:
    from raycap.edits.records import Edit
    from raycap.exporting.edits import ListedEdit

_TEXT_WIDTH = 60


def list_edits(
    output: CaptionsArg,
    image: Annotated[
        str | None,
        typer.Option("--image", help="Only edits of the image with this id.", show_default=False),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Only edits of this reviewer.", show_default=False)
    ] = None,
    last: Annotated[
        int,
        typer.Option(
            "--last",
            min=1,
            help="Show this many edits, the latest. In the table, a batch counts as one.",
        ),
    ] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """List the corrections that people made to the captions in OUTPUT.

    Example: `raycap edits list captions/ --by ann`

    Exit codes: 0 listed; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.exporting.edits import list_edits as read_edits

        storage = load_storage(config, settings)
        found = read_edits(output, image=image, by=by, storage=storage)
        if json:
            shown = [{**asdict(one.edit), "is_undone": one.is_undone} for one in found[-last:]]
            print_json({"num_edits": len(found), "edits": shown})
            return
        savings = [list(group) for _, group in groupby(found, lambda one: _name(one.edit))]
        Console().print(edits_table(savings[-last:]))
        if len(savings) > last:
            num_earlier = sum(map(len, savings[:-last]))
            stderr().print(f"{num_earlier:,} earlier edits: raise --last to see them")


def _name(edit: "Edit") -> str:
    """Return the id that undoes all that was saved with an edit."""
    return edit.batch or edit.edit_id


def edits_table(savings: "list[list[ListedEdit]]") -> Table:
    """Build the table of single edits and of batches, the latest last."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("edit", "saved (UTC)", "by", "image", "what"):
        is_copied = title in ("edit", "saved (UTC)")  # into `raycap edits undo`
        table.add_column(title, overflow="fold", no_wrap=is_copied)
    for saved in savings:
        edit = saved[0].edit
        image = edit.image_id if edit.prompt is None else f"{edit.image_id} ({edit.prompt})"
        if len(saved) > 1:
            image = f"{len(saved):,} images, such as {image}"
        what = _what(edit) + _undone(saved)
        cells = (_name(edit), edit.at[:16].replace("T", " "), edit.by, image, what)
        table.add_row(*map(escape, cells))
    return table


def _undone(saved: "list[ListedEdit]") -> str:
    num_undone = sum(one.is_undone for one in saved)
    if num_undone in (0, len(saved)):
        return " [undone]" if num_undone else ""
    return f" [{num_undone:,} of them undone]"


def _what(edit: "Edit") -> str:
    if edit.undoes is not None:
        return f"undo {edit.undoes}"
    if edit.new is None:
        return str(edit.action)
    old = "(no caption)" if edit.old is None else brief(edit.old, _TEXT_WIDTH)
    return f"{old} -> {brief(edit.new, _TEXT_WIDTH)}"


def undo(
    output: CaptionsArg,
    edits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EDITS",
            help="Ids of edits or batches, as `raycap edits list` shows them.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="Undo the edits of this reviewer instead.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="With `--by`: only edits saved at this time (UTC) or later, such as "
            "`2026-03-31T14:00`.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Undo corrections, as if they had never been made. An undoing can be undone, too.

    Later edits of the same captions remain.

    Example: `raycap edits undo captions/ 000000012-000001`

    Exit codes: 0 undone; 1 stopped; 2 wrong usage or settings, or no such edit.
    """
    with told_errors(debug=debug):
        from raycap.exporting.edits import undo_edits

        storage = load_storage(config, settings)
        undone = undo_edits(output, edits or [], by=by, since=since, storage=storage)
        names = ", ".join(dict.fromkeys(map(_name, undone)))
        print_rows([("undone", f"{len(undone):,}"), ("undo that with", names)])


def export_edits(
    output: CaptionsArg,
    destination: Annotated[
        str,
        argument("DESTINATION", "File to write, `.jsonl` or `.csv`: local or `s3://bucket/key`."),
    ],
    existing: Annotated[
        Existing,
        typer.Option("--existing", help="If the file exists: stop (refuse), or replace it."),
    ] = Existing.REFUSE,
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Write all corrections to a file: who changed what, when, and whether it was undone.

    `raycap export` writes the captions as people left them.

    Example: `raycap edits export captions/ edits.csv`

    Exit codes: 0 written; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.exporting.edits import export_edits as write_edits

        storage = load_storage(config, settings)
        num_edits = write_edits(output, destination, existing=existing, storage=storage)
        print_rows([("edits", f"{num_edits:,}"), ("written to", destination)])


def copy(
    source: Annotated[
        str, argument("SOURCE", "The output of `raycap caption` with the corrections.")
    ],
    output: Annotated[
        str, argument("OUTPUT", "The output that gets them, such as one of another model.")
    ],
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Copy the texts that people wrote to the same images in another output.

    Captions that have edits there keep them; images that differ are counted. Approvals and
    rejections of captions that a model wrote are not copied: the other output has other captions.

    Example: `raycap edits copy captions/ better/`

    Exit codes: 0 copied; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.exporting.edits import copy_edits

        found = copy_edits(source, output, storage=load_storage(config, settings))
        rows = [("copied", f"{found.num_copied:,}")]
        for name, count in (
            ("edited there", found.num_reviewed),
            ("image differs", found.num_changed),
            ("not there", found.num_missing),
        ):
            rows += [(name, f"{count:,}")] if count else []
        print_rows([*rows, ("undo that with", found.batch)] if found.batch else rows)


EDITS_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_edits,
    "undo": undo,
    "export": export_edits,
    "copy": copy,
}
"""The commands below `raycap edits`, by name."""
