"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

SourceArg = Annotated[
    str,
    typer.Argument(
        help="A folder, a glob, `s3://bucket/prefix`, one image, or a list of addresses "
        "(.txt, .csv, .jsonl, .parquet with a column `uri`).",
        show_default=False,
    ),
]
OutputArg = Annotated[
    str, typer.Argument(help="A folder or `s3://bucket/prefix`.", show_default=False)
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
