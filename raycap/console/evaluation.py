"""`raycap prepare`, `raycap evaluate`, `raycap report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from raycap.config import EvaluateConfig, PrepareConfig, ReportConfig
from raycap.config.loading import load_config
from raycap.console.errors import stderr, told_errors
from raycap.console.options import ConfigOption, DebugOption, OutputArg, SetOption

FormatOption = Annotated[
    Literal["coco", "karpathy", "flickr", "metadata", "sidecar", "table", "webdataset"] | None,
    typer.Option("--format", help="What the source is; recognised where it is not said."),
]


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="COCO or Karpathy JSON, Flickr `captions.txt`, a folder with `metadata.jsonl` or "
            "`.txt` sidecars, a Parquet, JSONL or CSV table, or WebDataset tars; local or "
            "`s3://`.",
            show_default=False,
        ),
    ],
    output: OutputArg,
    format: FormatOption = None,
    images: Annotated[
        str | None,
        typer.Option("--images", help="Where the images are, if not beside the captions."),
    ] = None,
    subset: Annotated[
        float | None,
        typer.Option(
            "--subset",
            help="Share of the images to take, such as 0.1: the same every time, and part of "
            "every larger share.",
        ),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Turn captions that people wrote, and their images, into a Parquet caption dataset.

    Every caption and image is kept or stands in `rejected.parquet` with the reason. The same
    command continues an interrupted one.

    Example: `raycap prepare annotations/captions_val2014.json dataset/ --images val2014/`

    Exit codes: 0 complete; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        chosen = [*(settings or []), *([f"subset={subset}"] if subset is not None else [])]
        resolved = load_config(PrepareConfig, config, chosen)
        from raycap.console.columns import print_rows
        from raycap.console.evaluation_tables import dataset_rows
        from raycap.console.progress import show_progress
        from raycap.datasets.prepare import prepare as prepare_dataset
        from raycap.datasets.readers import AnnotationFormat

        with show_progress(stderr()) as on_progress:
            record = prepare_dataset(
                source,
                output,
                format=AnnotationFormat(format) if format else None,
                images=images,
                config=resolved,
                on_progress=on_progress,
                debug=debug,
            )
        print_rows([*dataset_rows(record), ("output", output)])


def evaluate(
    captions: Annotated[
        list[str],
        typer.Argument(
            help="One or more of: what `raycap caption` wrote, COCO results JSON, JSONL, CSV, "
            "Parquet; `name=PATH` gives a name.",
            show_default=False,
        ),
    ],
    references: Annotated[
        str,
        typer.Argument(
            help="What people wrote: a dataset of `raycap prepare`, or anything that it reads.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder or `s3://` prefix for `evaluation.json` and the scores of each image.",
        ),
    ] = None,
    missing: Annotated[
        Literal["error", "worst", "drop"],
        typer.Option(
            "--missing",
            help="Images without a caption: stop, score them 0, or leave them out for all.",
        ),
    ] = "error",
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Only this split of the references; may be repeated."),
    ] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare captions with what people wrote: BLEU, ROUGE-L, CIDEr-D, and the length gap.

    Several sets of captions are compared side by side, with intervals and paired tests.

    Example: `raycap evaluate captions/ dataset/ --split test --output evaluation/`

    Exit codes: 0 done; 1 stopped (images without a caption, unless --missing says otherwise);
    2 usage or config.
    """
    with told_errors(debug=debug):
        resolved = load_config(EvaluateConfig, config, list(settings or []))
        from raycap.console.evaluation_tables import print_evaluation
        from raycap.console.progress import show_progress
        from raycap.evaluation.evaluate import evaluate as evaluate_captions
        from raycap.evaluation.matching import MissingPolicy

        with show_progress(stderr()) as on_progress:
            found = evaluate_captions(
                captions,
                references,
                output=output,
                missing=MissingPolicy(missing),
                splits=split or (),
                config=resolved,
                on_progress=on_progress,
                debug=debug,
            )
        print_evaluation(found)


def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="What `raycap caption`, `evaluate`, `prepare`, `train`, `tune`, `study` or "
            "`calibrate` wrote.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="The page; local or `s3://`.")
    ] = "report.html",
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Write one HTML page to look at: figures, plots, and a gallery of images and captions.

    The page needs nothing else: it can be mailed, and opened without a network.

    Example: `raycap report evaluation/ --output report.html`

    Exit codes: 0 written; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        resolved = load_config(ReportConfig, config, list(settings or []))
        from raycap.console.columns import print_rows
        from raycap.console.evaluation_tables import report_rows
        from raycap.reporting.report import report as write_report

        print_rows(
            report_rows(
                write_report(
                    paths, Path(output) if "://" not in output else output, config=resolved
                )
            )
        )
