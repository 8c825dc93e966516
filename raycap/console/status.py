"""`raycap status`."""

from typing import TYPE_CHECKING, Annotated

import typer

from raycap.console.options import ConfigOption, DebugOption, SetOption, load_caption_config
from raycap.console.terminal import print_rows, told_errors
from raycap.errors import EXIT_STOPPED
from raycap.text import duration

if TYPE_CHECKING:
    from raycap.results.captioning import OutputStatus


def status(
    output: Annotated[
        str, typer.Argument(help="The output of `raycap caption`.", show_default=False)
    ],
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Show the progress of the run that writes to OUTPUT.

    Reads only the files in OUTPUT, so it works from any machine that can read them.

    Example: `raycap status s3://my-bucket/captions`

    Exit codes: 0 complete, starting or running; 1 stopped, or without a heartbeat.
    """
    with told_errors(debug=debug):
        resolved = load_caption_config(config, settings, None)
        from raycap.captioning.status import read_status

        found = read_status(output, storage=resolved.storage)
        print_rows(status_rows(found))
        if found.state in ("stopped", "silent", "unfinished"):
            raise typer.Exit(EXIT_STOPPED)


_STATES = {
    "complete": "complete: every image has a row",
    "running": "running",
    "silent": "silent: no heartbeat, the run died or lost its output; run the same command",
    "unfinished": "stopped before the summary, though every image has a row: run the same command",
    "stopped": "stopped: run the same command to continue",
    "starting": "starting: listing images",
}


def status_rows(found: "OutputStatus") -> list[tuple[str, str]]:
    """Return the progress of a run as names and values."""
    rows = [("state", _STATES[found.state])]
    beat = found.beat
    if beat is None or found.age_s is None:
        return rows
    share = beat.num_done / beat.num_total if beat.num_total else 1.0
    rows += [
        ("images", f"{beat.num_total:,}"),
        ("done", f"{beat.num_done:,} ({share:.1%})"),
        ("failed", f"{beat.num_failed:,}"),
    ]
    if found.num_gone:
        rows.append(("gone from source", f"{found.num_gone:,}"))
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
