"""Arguments and options that several commands share."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raycap.config import CaptionConfig, EditsMode, ModelKind, StorageConfig
from raycap.config.loading import load_config


def argument(name: str, help: str) -> Any:
    """Return a required positional argument, called `name` in help and messages."""
    return typer.Argument(metavar=name, help=help, show_default=False)


def set_option(example: str) -> Any:
    """Return the option `--set`; the example is one of the command's own settings."""
    return typer.Option(
        "--set",
        "-s",
        help=f"Override a setting, for example `{example}`; can be repeated.",
        show_default=False,
    )


SourceArg = Annotated[
    str,
    argument(
        "SOURCE",
        "Images: a folder, a glob, `s3://bucket/prefix`, one image, tars of a "
        "WebDataset (`'shards/{00000..00999}.tar'`), a list of addresses (.txt, or .csv, .tsv, "
        ".json, .jsonl, .parquet with a column `uri`), or a dataset of `raycap prepare`.",
    ),
]
OutputArg = Annotated[str, argument("OUTPUT", "Folder or `s3://bucket/prefix` to write to.")]
AnyOutputArg = Annotated[
    str, argument("OUTPUT", "The output of any command: a folder or `s3://bucket/prefix`.")
]
CaptionsArg = Annotated[str, argument("OUTPUT", "The output of `raycap caption`.")]
DatasetArg = Annotated[
    str,
    argument("DATASET", "Dataset of `raycap prepare`: a folder or `s3://bucket/prefix`."),
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
    ModelKind | None,
    typer.Option("--kind", "-k", help="Kind of model to train. Default: blip.", show_default=False),
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
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split", help="Use only this split of a dataset of `raycap prepare`.", show_default=False
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file with settings.", show_default=False),
]
CaptionSetOption = Annotated[list[str] | None, set_option("generation.num_beams=5")]
TrainSetOption = Annotated[list[str] | None, set_option("train.num_epochs=5")]
StorageSetOption = Annotated[list[str] | None, set_option("storage.num_retries=3")]
EditsOption = Annotated[
    EditsMode | None,
    typer.Option(
        "--edits",
        help="Corrections of people in an output of `raycap caption`: apply them, ignore them, or "
        "read only captions that people have written or approved.",
        show_default="apply",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON instead of a table; `docs/python.md` lists the fields."
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and the output of Ray's workers.")
]


def load_storage(file: Path | None, settings: list[str] | None) -> StorageConfig:
    """Load how stores are accessed, from the settings of `raycap caption`."""
    return load_config(CaptionConfig, file, settings).storage


def print_json(found: dict[str, Any]) -> None:
    """Print a result as JSON: all that goes to standard output."""
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
