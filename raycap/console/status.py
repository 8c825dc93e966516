"""`raycap status`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from raycap.console.options import (
    AnyOutputArg,
    ConfigOption,
    DebugOption,
    JsonOption,
    StorageSetOption,
    load_storage,
    print_json,
)
from raycap.console.terminal import print_rows, told_errors
from raycap.errors import EXIT_STOPPED

if TYPE_CHECKING:
    from raycap.results.captioning import OutputStatus
    from raycap.results.outputs import WorkStatus


def status(
    output: AnyOutputArg,
    json: JsonOption = False,
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Show the kind of OUTPUT, its state, and the progress of the run that writes it.

    Reads only the files in OUTPUT, so it works on any machine that can read them.

    Example: `raycap status s3://my-bucket/captions`

    Exit codes: 0 complete, running or unknown; 1 stopped, unfinished or silent (no heartbeat); 2
    wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.inspection import status as read_status
        from raycap.results.outputs import WorkStatus
        from raycap.results.shown.captioning import status_rows
        from raycap.results.shown.work import work_rows

        found = read_status(output, storage=load_storage(config, settings))
        if json:
            print_json(status_fields(found))
        elif isinstance(found, WorkStatus):
            print_rows(work_rows(found))
        else:
            print_rows(status_rows(found))
        if found.state in ("stopped", "silent", "unfinished"):
            raise typer.Exit(EXIT_STOPPED)


def status_fields(found: "OutputStatus | WorkStatus") -> dict[str, object]:
    """Return the state of an output as JSON; the fields are those of its type."""
    from raycap.results.outputs import OutputKind, WorkStatus

    kind = {} if isinstance(found, WorkStatus) else {"kind": OutputKind.CAPTIONS}
    return {**kind, **asdict(found)}
