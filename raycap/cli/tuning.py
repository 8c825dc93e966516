"""`raycap tune`."""

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
from raycap.config import TuneConfig
from raycap.settings import load_config


def tune(
    dataset: DatasetArg,
    output: OutputArg,
    model: KindOption = None,
    init: InitOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Search settings of training on DATASET, into OUTPUT: the best model is in OUTPUT/model.

    Each trial is a `raycap train` with other settings; those that fall behind are stopped early.
    OUTPUT/best.yaml holds the best settings. The same command continues an interrupted search.

    Example: `raycap tune dataset/ search/ --model hybrid --set tune.space.train.lr='[1e-4,1e-3]'`

    Exit codes: 0 searched; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        chosen = list(settings or [])
        chosen += [f"kind={model}"] if model is not None else []
        chosen += [f"init={init}"] if init is not None else []
        resolved = load_config(TuneConfig, config, chosen)
        from raycap.progress.searches import show_search
        from raycap.tables.tuning import print_search
        from raycap.tune.run import tune as search

        with show_search(stderr()) as on_progress:
            found = search(dataset, output, config=resolved, on_progress=on_progress, debug=debug)
        print_search(found)
