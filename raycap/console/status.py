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
from raycap.console.rows import edit_rows, flagged_rows, gone_rows, spent_rows, unread_pictures
from raycap.console.terminal import print_rows, told_errors
from raycap.errors import EXIT_STOPPED
from raycap.text import duration

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


_STATES = {
    "complete": "complete: every image has a row",
    "running": "running",
    "silent": "silent: no heartbeat; the run died or cannot reach its output: run the same command",
    "unfinished": "unfinished: every image has a row, but no summary: run the same command",
    "stopped": "stopped: run the same command to continue",
    "starting": "starting: listing images",
}
_WORK_STATES = {
    **_STATES,
    "complete": "complete",
    "unknown": "not complete: running elsewhere (another machine or container), or stopped",
}


def work_rows(found: "WorkStatus") -> list[tuple[str, str]]:
    """Return the state of an output that is not of `raycap caption` as names and values."""
    rows = [("kind", str(found.kind)), ("state", _WORK_STATES[found.state])]
    if found.num_total is None:
        rows.append((found.unit, f"{found.num_done:,} done"))
    else:
        rows.append((found.unit, f"{found.num_done:,} of {found.num_total:,} done"))
    if found.num_failed:
        rows.append(("failed", f"{found.num_failed:,}"))
    if found.best:
        rows.append(("best", found.best))
    return rows


def status_rows(found: "OutputStatus") -> list[tuple[str, str]]:
    """Return the progress of a captioning run as names and values."""
    rows = [("state", _STATES.get(found.state, found.state))]
    beat = found.beat
    if beat is None or found.age_s is None:
        return rows
    share = beat.num_done / beat.num_total if beat.num_total else 1.0
    rows += [
        ("images", f"{beat.num_total:,}"),
        *unread_pictures(beat.num_total, found.skipped),
        ("done", f"{beat.num_done:,} ({share:.1%})"),
        ("failed", f"{beat.num_failed:,}"),
        *flagged_rows(beat.flagged),
    ]
    if beat.num_copies:
        rows.append(("same bytes as another", f"{beat.num_copies:,}"))
    rows += [*gone_rows(found.num_gone), *spent_rows(beat.spent), *edit_rows(found.edits)]
    if found.state == "running":
        rows.append(("rate", f"{beat.images_per_s:g} images/s"))
        left = beat.num_total - beat.num_done
        if beat.images_per_s:
            rows.append(("ETA", duration(left / beat.images_per_s)))
    return [
        *rows,
        ("started", beat.started_at),
        ("last heartbeat", f"{duration(found.age_s)} ago, from {beat.host}, pid {beat.pid}"),
    ]
