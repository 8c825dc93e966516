"""`raycap report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raycap.config import ReportConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DebugOption,
    EditsOption,
    argument,
    set_option,
)
from raycap.console.terminal import print_rows, told_errors

if TYPE_CHECKING:
    from raycap.reporting.report import ReportSummary


def report(
    paths: Annotated[
        list[str],
        argument(
            "PATHS",
            "Outputs of `raycap caption`, `evaluate`, `prepare`, `train`, `tune`, `study` or "
            "`calibrate`.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="HTML file to write, local or `s3://`.")
    ] = "report.html",
    edits: EditsOption = None,
    config: ConfigOption = None,
    settings: Annotated[list[str] | None, set_option("num_examples=24")] = None,
    debug: DebugOption = False,
) -> None:
    """Write one HTML page with figures, plots, and a gallery of images and captions.

    The page is self-contained: you can send it by mail and open it without a network.

    Example: `raycap report evaluation/ --output report.html`

    Exit codes: 0 written; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(ReportConfig, config, settings, {"edits": edits})
        from raycap.reporting.report import report as write_report

        print_rows(
            report_rows(
                write_report(
                    paths, Path(output) if "://" not in output else output, config=resolved
                )
            )
        )


def report_rows(summary: "ReportSummary") -> list[tuple[str, str]]:
    """Return the size and contents of a report as names and values."""
    rows = [
        ("sections", f"{summary.num_sections:,}"),
        ("images shown", f"{summary.num_examples:,}"),
        ("size", f"{summary.num_bytes / 1e6:.1f} MB"),
    ]
    if summary.num_unreadable:
        rows.append(("without a picture", f"{summary.num_unreadable:,}"))
    return [*rows, ("report", summary.path)]
