"""`raycap calibrate`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from raycap.config import CalibrateConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    ConfigOption,
    DatasetArg,
    DebugOption,
    argument,
    set_option,
)
from raycap.console.terminal import print_rows, stderr, told_errors

if TYPE_CHECKING:
    from raycap.results.calibration import Calibration, ScoredSetting


def calibrate(
    model: Annotated[
        str, argument("MODEL", "A Hub name, `name@revision`, a local folder or `demo`.")
    ],
    dataset: DatasetArg,
    output: Annotated[
        str, argument("OUTPUT", "New folder for the model with the chosen settings.")
    ],
    split: Annotated[
        str | None,
        typer.Option(
            "--split", help="Split to try the settings on. Default: validation.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    settings: Annotated[list[str] | None, set_option("search.length_penalties=[1.0,2.0]")] = None,
    debug: DebugOption = False,
) -> None:
    """Find generation settings with which MODEL writes captions as long as people's.

    Tries minimum and maximum lengths, length penalties and n-gram blocking on images of DATASET's
    validation split, shows the scores of each combination, and saves the model with the settings
    that close the length gap without losing CIDEr-D. The model is not trained. Run the same command
    again to continue an interrupted run.

    Example: `raycap calibrate demo dataset/ calibrated/`

    Exit codes: 0 calibrated; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        resolved = load_config(CalibrateConfig, config, settings, {"split": split})
        from raycap.console.progress import show_progress
        from raycap.experiments.calibration.run import calibrate as calibrate_model

        with show_progress(stderr()) as on_progress:
            found = calibrate_model(
                model, dataset, output, config=resolved, on_progress=on_progress, debug=debug
            )
        print_calibration(found)


def print_calibration(found: "Calibration") -> None:
    """Print the trials from the shortest captions to the longest, then the choice."""
    from raycap.results.shown.experiments import calibration_rows

    Console().print(trial_table(found))
    print_rows(calibration_rows(found))
    Console().print(
        f"\nTry next:\n  raycap caption YOUR_FOLDER captions/ --model {found.output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def trial_table(found: "Calibration") -> Table:
    """Build the table of trials; `*` marks the Pareto front of CIDEr-D and length gap."""
    names = ("min", "max", "penalty", "n-gram", "CIDEr-D", "BLEU-4", "tokens", "gap", "repeats")
    table = Table(box=None)
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("")
    from raycap.results.calibration import frontier

    best = frontier(found.trials)
    for trial in sorted(found.trials, key=lambda trial: (trial.length_gap, trial.cider_d)):
        table.add_row(*_cells(trial), _marks(trial, found, best))
    return table


def _cells(trial: "ScoredSetting") -> list[str]:
    generation = trial.generation
    return [
        str(generation.min_new_tokens),
        str(generation.max_new_tokens),
        f"{generation.length_penalty:g}" if generation.num_beams > 1 else "-",
        str(generation.no_repeat_ngram_size or "-"),
        f"{trial.cider_d:.3f}",
        f"{trial.bleu_4:.3f}",
        f"{trial.mean_length:.1f}",
        f"{trial.length_gap:+z.2f}",
        f"{trial.repetition:.0%}",
    ]


def _marks(trial: "ScoredSetting", found: "Calibration", best: "list[ScoredSetting]") -> str:
    marks = ["*"] if trial in best else []
    marks += ["start"] if trial == found.start else []
    marks += ["[bold green]chosen[/bold green]"] if trial == found.chosen else []
    return " ".join(marks)
