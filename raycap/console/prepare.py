"""`raycap prepare`."""

from typing import Annotated

import typer

from raycap.config import AnnotationFormatName, PrepareConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DebugOption,
    EditsOption,
    OutputArg,
    argument,
    set_option,
)
from raycap.console.terminal import print_rows, stderr, told_errors

FormatOption = Annotated[
    AnnotationFormatName | None,
    typer.Option("--format", help="Format of SOURCE. Default: detected."),
]


def prepare(
    source: Annotated[
        str,
        argument(
            "SOURCE",
            "Annotations: COCO or Karpathy JSON, Flickr `captions.txt`, a folder with "
            "`metadata.jsonl` or `.txt` sidecars, a Parquet, JSONL or CSV table, or WebDataset "
            "tars; or an output of `raycap caption`; local or `s3://`.",
        ),
    ],
    output: OutputArg,
    format: FormatOption = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            help="Folder, bucket prefix or tars with the images, if they are not beside the "
            "captions.",
        ),
    ] = None,
    subset: Annotated[
        float | None,
        typer.Option(
            "--subset",
            help="Share of the images to use, for example 0.1. The same share always selects the "
            "same images; a larger share includes them.",
        ),
    ] = None,
    edits: EditsOption = None,
    config: ConfigOption = None,
    settings: Annotated[list[str] | None, set_option("split.seed=1")] = None,
    debug: DebugOption = False,
) -> None:
    """Convert annotated images, or images that raycap captioned, to a Parquet caption dataset.

    Each caption and image is either kept, or listed in `rejected.parquet` with the reason. Run the
    same command again to continue an interrupted run.

    Example: `raycap prepare annotations/captions_val2014.json dataset/ --images val2014/`

    Exit codes: 0 complete; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.results.shown.work import dataset_rows

        resolved = load_config(PrepareConfig, config, settings, {"subset": subset, "edits": edits})
        from raycap.console.progress import show_progress
        from raycap.exporting.dataset import prepare as prepare_dataset

        with show_progress(stderr()) as on_progress:
            record = prepare_dataset(
                source,
                output,
                format=format,
                images=images,
                config=resolved,
                on_progress=on_progress,
                debug=debug,
            )
        print_rows([*dataset_rows(record), ("output", output)])
