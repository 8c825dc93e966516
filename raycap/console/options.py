"""Arguments and options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from raycap.config import CaptionConfig
from raycap.config.loading import load_config

SourceArg = Annotated[
    str,
    typer.Argument(
        help="Images: a folder, a glob, `s3://bucket/prefix`, one image, a list of addresses "
        "(.txt, or .csv, .tsv, .json, .jsonl, .parquet with a column `uri`), or a dataset of "
        "`raycap prepare`.",
        show_default=False,
    ),
]
OutputArg = Annotated[
    str, typer.Argument(help="Folder or `s3://bucket/prefix` to write to.", show_default=False)
]
DatasetArg = Annotated[
    str,
    typer.Argument(
        help="Dataset of `raycap prepare`: a folder or `s3://bucket/prefix`.", show_default=False
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="Initial weights: a Hub name, a local folder, or `demo`. Default: "
        "Salesforce/blip-image-captioning-base for blip, random weights otherwise.",
        show_default=False,
    ),
]
KindOption = Annotated[
    Literal["blip", "cnn-lstm", "transformer", "hybrid"] | None,
    typer.Option(
        "--model", "-m", help="Kind of model to train. Default: blip.", show_default=False
    ),
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
        help="Override a setting, for example `generation.num_beams=5`; can be repeated.",
        show_default=False,
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and the output of Ray's workers.")
]


def load_caption_config(
    file: Path | None,
    settings: list[str] | None,
    model: str | None,
    options: Sequence[tuple[str, object]] = (),
) -> CaptionConfig:
    """Load the settings of `raycap caption`; options given by name win over `--set`."""
    named = [("model.name", model), *options]
    chosen = [*(settings or []), *(f"{name}={value}" for name, value in named if value is not None)]
    return load_config(CaptionConfig, file, chosen)
