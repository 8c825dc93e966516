"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

SourceArg = Annotated[
    str,
    typer.Argument(
        help="A folder, a glob, `s3://bucket/prefix`, one image, a list of addresses "
        "(.txt, .csv, .jsonl, .parquet with a column `uri`), or what `raycap prepare` wrote.",
        show_default=False,
    ),
]
OutputArg = Annotated[
    str, typer.Argument(help="A folder or `s3://bucket/prefix`.", show_default=False)
]
DatasetArg = Annotated[
    str,
    typer.Argument(
        help="What `raycap prepare` wrote: a folder or `s3://bucket/prefix`.", show_default=False
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="Weights to begin with: a Hub name, a local folder, or `demo`. Default: "
        "Salesforce/blip-image-captioning-base for blip, random weights for the others.",
        show_default=False,
    ),
]
KindOption = Annotated[
    Literal["blip", "cnn-lstm", "transformer", "hybrid"] | None,
    typer.Option("--model", "-m", help="What to train. Default: blip.", show_default=False),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A Hub name, `name@revision`, a local folder, `demo` or `stub`. "
        "Default: Salesforce/blip-image-captioning-base.",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file of settings.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="A setting, such as `generation.num_beams=5`; may be repeated.",
        show_default=False,
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, and the workers' own output.")
]
