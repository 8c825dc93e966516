"""`raycap study`."""

from raycap.cli.errors import stderr, told_errors
from raycap.cli.options import ConfigOption, DatasetArg, DebugOption, OutputArg, SetOption
from raycap.config import StudyConfig
from raycap.settings import load_config


def study(
    dataset: DatasetArg,
    output: OutputArg,
    config: ConfigOption = None,
    settings: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """Compare captioners on DATASET, into OUTPUT: one table, one report, what to decide by.

    CNN-LSTM, Transformer, hybrid, BLIP out of the box, with calibrated length, and fine-tuned;
    with and without augmentation, on growing subsets. The same command continues a study that was
    interrupted.

    Example: `raycap study dataset/ study/ --config configs/study-scenes.yaml`

    Exit codes: 0 compared; 1 stopped; 2 usage or config.
    """
    with told_errors(debug=debug):
        resolved = load_config(StudyConfig, config, list(settings or []))
        from raycap.progress.studies import show_study
        from raycap.study.run import study as compare
        from raycap.tables.studying import print_study

        with show_study(stderr()) as on_progress:
            found = compare(dataset, output, config=resolved, on_progress=on_progress, debug=debug)
        print_study(found)
