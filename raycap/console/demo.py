"""`raycap demo`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.console.options import DebugOption
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.errors import EXIT_STOPPED
from raycap.progress import Progress

if TYPE_CHECKING:
    from raycap.demo.outcome import DemoResult
    from raycap.results.training import OnTrainingProgress


def demo(
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Folder for all files of the demonstration.")
    ] = Path("raycap-demo"),
    debug: DebugOption = False,
) -> None:
    """Run every step on drawn scenes: caption, fine-tune, caption again, evaluate, report.

    Needs no network and no GPU: a small pretrained BLIP ships with raycap. Takes a few minutes on
    two cores. Writes the figures to OUTPUT/demo.json and the report to OUTPUT/report.html.

    Example: `raycap demo raycap-demo`

    Exit codes: 0 complete; 1 stopped; 2 wrong usage or settings.
    """
    with told_errors(debug=debug):
        from raycap.demo.run import Stages, run_demo

        result = run_demo(output, Stages(work=_work, training=_training), debug=debug)
        print_demo(result)
        if not result.verification.is_complete:
            raise typer.Exit(EXIT_STOPPED)


@contextmanager
def _work(stage: str) -> Iterator[Callable[[Progress], None]]:
    from raycap.console.progress import show_progress

    stderr().print(f"{stage} ...")
    with show_progress(stderr()) as on_progress:
        yield on_progress


@contextmanager
def _training(stage: str) -> Iterator["OnTrainingProgress"]:
    from raycap.console.progress import show_training

    stderr().print(f"{stage} ...")
    with show_training(stderr()) as on_progress:
        yield on_progress


def print_demo(result: "DemoResult") -> None:
    """Print the summary, both models beside people, sample captions, and what to try next."""
    from raycap.results.shown.captioning import summary_rows, verification_rows

    print_rows([*summary_rows(result.summary), *verification_rows(result.verification)[-2:]])
    Console().print(_comparison(result))
    Console().print(_samples(result))
    Console().print(
        f"\ntotal time            {result.seconds:.0f} s\n"
        f"report                {result.report}   open it in a browser\n"
        "\nTry next:\n"
        "  raycap caption YOUR_FOLDER captions/ --model demo     your own images\n"
        "  raycap caption YOUR_FOLDER blip/                      the same, with pretrained BLIP\n"
        f"  raycap caption YOUR_FOLDER tuned/ --model {result.folder}/training/model",
        highlight=False,
        soft_wrap=True,
    )


def _comparison(result: "DemoResult") -> Table:
    table = Table(
        "",
        "mean words",
        "CIDEr-D",
        "BLEU-4",
        "attributes right",
        box=None,
        title="\nbefore and after",
        title_justify="left",
    )
    for name, figures in (("pretrained", result.before), ("fine-tuned", result.after)):
        table.add_row(
            name,
            f"{figures.mean_words:.2f}",
            f"{figures.cider:.3f}",
            f"{figures.bleu_4:.3f}",
            f"{figures.attributes_right:.1%}",
        )
    table.add_row("people", f"{result.reference_words:.2f}", "", "", "")
    return table


def _samples(result: "DemoResult") -> Table:
    table = Table("image", "", "caption", title="\nsamples", title_justify="left", box=None)
    for sample in result.samples:
        table.add_row(escape(sample.image_id), "pretrained", escape(sample.before))
        table.add_row("", "fine-tuned", escape(sample.after))
        table.add_row("", "people", escape(sample.reference))
    return table
