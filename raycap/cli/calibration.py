"""`raycap calibrate`."""

from typing import Annotated

import typer

from raycap.cli.errors import stderr, told_errors
from raycap.cli.options import ConfigOption, DatasetArg, DebugOption, SetOption
from raycap.config import CalibrateConfig
from raycap.settings import load_config


def calibrate(
    model: Annotated[
        str,
        typer.Argument(
            help="A Hub name, `name@revision`, a local folder or `demo`.", show_default=False
        ),
    ],
    dataset: DatasetArg,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="A new folder, for the model with the chosen settings.",
            show_default=False,
        ),
    ],
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Find settings by which MODEL writes captions as long as people's, without training it.

    Tries lengths, length penalties and n-gram blocking on images of DATASET's validation split,
    shows what each costs, and saves the model with those that close the length gap without losing
    CIDEr-D. The same command continues an interrupted one.

    Example: `raycap calibrate demo dataset/ --output calibrated/`

    Exit codes: 0 calibrated; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        resolved = load_config(CalibrateConfig, config, list(settings or []))
        from raycap.calibration.run import calibrate as calibrate_model
        from raycap.progress import show_progress
        from raycap.tables.calibration import print_calibration

        with show_progress(stderr()) as on_progress:
            found = calibrate_model(
                model, dataset, output, config=resolved, on_progress=on_progress, debug=debug
            )
        print_calibration(found)
