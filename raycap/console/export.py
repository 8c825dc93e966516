"""`raycap export`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from raycap.console.options import ConfigOption, DebugOption, SetOption, load_caption_config
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.errors import EXIT_STOPPED

if TYPE_CHECKING:
    from raycap.results.captioning import ExportCounts


def export(
    output: Annotated[
        str, typer.Argument(help="The output of `raycap caption`.", show_default=False)
    ],
    destination: Annotated[
        str,
        typer.Argument(
            help="File (jsonl, csv, parquet, coco) or folder (sidecar, webdataset) to write, "
            "local or `s3://bucket/key`.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Literal["jsonl", "csv", "parquet", "sidecar", "webdataset", "coco"],
        typer.Option("--to", help="Format to write.", show_default=False),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing destination.")
    ] = False,
    gone: Annotated[
        Literal["keep", "drop"],
        typer.Option(
            "--gone",
            help="Keep or drop images that were no longer in the source when it was last listed.",
        ),
    ] = "keep",
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Convert the captions of a finished run to a format that other tools read.

    Example: `raycap export captions/ captions.jsonl --to jsonl`

    Exit codes: 0 all exported; 1 stopped, or some images could no longer be read or have changed.
    """
    with told_errors(debug=debug):
        resolved = load_caption_config(config, settings, None)
        from raycap.captioning.export import ExportFormat
        from raycap.captioning.export import export as export_output

        counts = export_output(
            output,
            destination,
            to=ExportFormat(to),
            force=force,
            gone=gone,
            storage=resolved.storage,
        )
        print_rows([*export_rows(counts), ("written to", destination)])
        for problem in counts.unreadable:
            stderr().print(f"[red]unreadable:[/red] {escape(problem)}", soft_wrap=True)
        if counts.num_unreadable:
            raise typer.Exit(EXIT_STOPPED)


def export_rows(counts: "ExportCounts") -> list[tuple[str, str]]:
    """Return the counts of an export as names and values."""
    rows = [("exported", f"{counts.num_exported:,}"), ("files", f"{counts.num_files:,}")]
    if counts.num_failed_skipped:
        rows.append(("without a caption", f"{counts.num_failed_skipped:,}"))
    if counts.num_gone_skipped:
        rows.append(("gone from source", f"{counts.num_gone_skipped:,} dropped"))
    if counts.num_unreadable:
        rows.append(("unreadable now", f"{counts.num_unreadable:,}"))
    return rows
