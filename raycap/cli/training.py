"""`raycap train`."""

from raycap.cli.errors import stderr, told_errors
from raycap.cli.options import (
    ConfigOption,
    DatasetArg,
    DebugOption,
    InitOption,
    KindOption,
    OutputArg,
    SetOption,
)
from raycap.config import TrainConfig
from raycap.settings import load_config


def train(
    dataset: DatasetArg,
    output: OutputArg,
    model: KindOption = None,
    init: InitOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Train a captioner on DATASET, into OUTPUT: the best model is in OUTPUT/model.

    Each epoch is measured on images that the model never learns from; training stops when it no
    longer gets better there. The same command continues an interrupted run where it was.

    Example: `raycap train dataset/ run/ --model blip --config configs/finetune-blip-base.yaml`

    Exit codes: 0 trained; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        chosen = list(settings or [])
        chosen += [f"kind={model}"] if model is not None else []
        chosen += [f"init={init}"] if init is not None else []
        resolved = load_config(TrainConfig, config, chosen)
        from raycap.progress import show_training
        from raycap.tables.training import print_training
        from raycap.train.run import train as train_model

        with show_training(stderr()) as on_progress:
            found = train_model(
                dataset, output, config=resolved, on_progress=on_progress, debug=debug
            )
        print_training(found)
