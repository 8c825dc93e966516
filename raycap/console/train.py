"""`raycap train`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raycap.config import TrainConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DatasetArg,
    DebugOption,
    InitOption,
    KindOption,
    OutputArg,
    TrainSetOption,
)
from raycap.console.terminal import print_rows, stderr, told_errors

if TYPE_CHECKING:
    from raycap.results.training import EpochRecord, Training


def train(
    dataset: DatasetArg,
    output: OutputArg,
    kind: KindOption = None,
    init: InitOption = None,
    config: ConfigOption = None,
    settings: TrainSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Train a captioner on DATASET; the best model is written to OUTPUT/model.

    Each epoch is evaluated on the validation split; training stops early when the score there no
    longer improves. Run the same command again to continue an interrupted run.

    Example: `raycap train dataset/ run/ --kind blip --config configs/finetune-blip-base.yaml`

    Exit codes: 0 trained; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(TrainConfig, config, settings, {"kind": kind, "init": init})
        from raycap.console.progress import show_training
        from raycap.training.run import train as train_model

        with show_training(stderr()) as on_progress:
            found = train_model(
                dataset, output, config=resolved, on_progress=on_progress, debug=debug
            )
        print_training(found)


def print_training(found: "Training") -> None:
    """Print the epochs, the summary, and what to try next."""
    from raycap.results.shown.experiments import training_rows

    Console().print(epoch_table(found.history, best=found.best.epoch))
    print_rows(training_rows(found))
    Console().print(
        f"\nTry next:\n  raycap caption YOUR_FOLDER captions/ --model {found.output}/model",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def epoch_table(history: "Sequence[EpochRecord]", *, best: int) -> Table:
    """Build the table of losses and scores, one row per epoch."""
    from raycap.results.shown.experiments import EPOCH_HEADINGS, epoch_cells

    table = Table(*EPOCH_HEADINGS, box=None, padding=(0, 1, 0, 0))
    for record in history:
        table.add_row(*epoch_cells(record, best=best))
    return table
