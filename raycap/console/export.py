"""`raycap export`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from raycap.config import (
    EditsMode,
    Existing,
    ExportFormat,
    Gone,
    HubImages,
    Layout,
    Naming,
    SameStem,
    Shards,
)
from raycap.console.options import (
    CaptionsArg,
    ConfigOption,
    DebugOption,
    EditsOption,
    StorageSetOption,
    argument,
    load_storage,
)
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.errors import EXIT_STOPPED

if TYPE_CHECKING:
    from raycap.results.captioning import ExportCounts

_CHOICE = "Images and columns"
_BESIDE = "Files beside images (sidecar, metadata, xmp)"
_TARS = "Tars (webdataset)"
_HUB = "Dataset of the Hugging Face Hub (hf)"


def export(
    output: CaptionsArg,
    destination: Annotated[
        str,
        argument(
            "DESTINATION",
            "File (jsonl, csv, parquet, coco, coco-results) or folder (sidecar, metadata, xmp, "
            "webdataset, hf) to write, local or `s3://bucket/key`.",
        ),
    ],
    to: Annotated[ExportFormat, typer.Option("--to", help="Format to write.", show_default=False)],
    existing: Annotated[
        Existing,
        typer.Option(
            "--existing",
            help="Files that exist at the destination: stop before anything is written (refuse), "
            "keep them and write the others (skip), add to them (append), replace them "
            "(overwrite), or keep all captions in them and add what they lack (import).",
        ),
    ] = Existing.REFUSE,
    gone: Annotated[
        Gone,
        typer.Option(
            "--gone",
            rich_help_panel=_CHOICE,
            help="Keep or drop images that were no longer in the source when it was last listed.",
        ),
    ] = Gone.KEEP,
    prompt: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHOICE,
            help="Named prompt whose answers to export.",
            show_default="the first of the run",
        ),
    ] = None,
    edits: EditsOption = None,
    where: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHOICE,
            help="Export only images that meet a condition in SQL, such as `logprob > -1 and "
            "num_words >= 8`.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHOICE,
            help="What to write, in this order, such as `image_id, caption as text, "
            "short.caption`; `*` is all that is written by default.",
            show_default=False,
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHOICE,
            metavar="TABLE",
            help="Add the columns of a table (.parquet, .csv, .tsv, .json or .jsonl), one row per "
            "image.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_CHOICE,
            help="Column by which the table is joined, or `ours=theirs`.",
            show_default="image_id",
        ),
    ] = None,
    same_stem: Annotated[
        SameStem,
        typer.Option(
            "--same-stem",
            rich_help_panel=_BESIDE,
            help="Sidecars of `x.jpg` and `x.png`: `x.jpg.txt` and `x.png.txt` (suffix), only "
            "`x.txt`, for the first of them (first), or stop before anything is written (error).",
        ),
    ] = SameStem.SUFFIX,
    suffix: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_BESIDE,
            help="Suffix of sidecars, such as `.caption`.",
            show_default=".txt",
        ),
    ] = None,
    naming: Annotated[
        Naming | None,
        typer.Option(
            rich_help_panel=_BESIDE,
            help="Replace the suffix of the image (stem) or add one (full), for sidecar and xmp.",
            show_default="stem for sidecar, full for xmp",
        ),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            rich_help_panel=_BESIDE,
            help="One metadata.jsonl for all images (root), or one in each folder (folder).",
            show_default="root",
        ),
    ] = None,
    shards: Annotated[
        Shards | None,
        typer.Option(
            "--shards",
            rich_help_panel=_TARS,
            help="Tars of `webdataset`: one per part of the output (parts); or if the source is "
            "tars, one for each of them, with the samples that have a caption (whole), or with "
            "the captions alone (captions).",
            show_default="whole if the source is tars",
        ),
    ] = None,
    images: Annotated[
        HubImages | None,
        typer.Option(
            "--images",
            rich_help_panel=_HUB,
            help="Store the images in the dataset (embed), or only their addresses (hf).",
            show_default="embed",
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            rich_help_panel=_HUB,
            help="License for the dataset card, such as `cc-by-4.0` (hf).",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            rich_help_panel=_HUB,
            help="Upload the dataset to `user/name` on the Hugging Face Hub, which is created as a "
            "private repository unless it exists (hf).",
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public", rich_help_panel=_HUB, help="Create that repository as a public one."
        ),
    ] = False,
    config: ConfigOption = None,
    settings: StorageSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Convert the captions of a finished run to a format that other tools read.

    Example: `raycap export captions/ captions.jsonl --to jsonl`

    Exit codes: 0 all exported; 1 stopped, or some images can no longer be read or have changed; 2
    wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.exporting.export import export as export_output

        counts = export_output(
            output,
            destination,
            to=to,
            existing=existing,
            same_stem=same_stem,
            gone=gone,
            prompt=prompt,
            edits=edits or EditsMode.APPLY,
            where=where,
            columns=columns,
            join=join,
            on=on,
            suffix=suffix,
            naming=naming,
            layout=layout,
            shards=shards,
            images=images,
            license=license,
            push=push,
            public=public,
            storage=load_storage(config, settings),
        )
        print_rows([*export_rows(counts), ("written to", destination)])
        for note in counts.notes:
            stderr().print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
        for problem in counts.unreadable:
            stderr().print(f"[red]unreadable:[/red] {escape(problem)}", soft_wrap=True)
        if counts.num_unreadable:
            raise typer.Exit(EXIT_STOPPED)


def export_rows(counts: "ExportCounts") -> list[tuple[str, str]]:
    """Return the counts of an export as names and values."""
    rows = [("exported", f"{counts.num_exported:,}"), ("files", f"{counts.num_files:,}")]
    if counts.num_failed_skipped:
        rows.append(("without a caption", f"{counts.num_failed_skipped:,}"))
    if counts.num_left_out:
        rows.append(("left out", f"{counts.num_left_out:,}"))
    if counts.num_kept:
        rows.append(("kept as they were", f"{counts.num_kept:,}"))
    if counts.num_gone_skipped:
        rows.append(("gone from source", f"{counts.num_gone_skipped:,} dropped"))
    if counts.num_unreadable:
        rows.append(("unreadable now", f"{counts.num_unreadable:,}"))
    if counts.pushed is not None:
        sent = f"{counts.pushed.num_files:,} files, {counts.pushed.num_bytes:,} bytes"
        rows += [("pushed to", counts.pushed.url), ("sent", sent)]
    return rows
