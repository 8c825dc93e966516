"""What the demonstration came to: before and after fine-tuning, side by side."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.demo.outcome import DemoResult
from raycap.tables.bulk import summary_rows, verification_rows
from raycap.tables.columns import print_rows


def print_demo(result: DemoResult) -> None:
    """Print the captioning, both models beside people, some captions, and what to try next."""
    print_rows([*summary_rows(result.summary), *verification_rows(result.verification)[-2:]])
    Console().print(_comparison(result))
    Console().print(_samples(result))
    Console().print(
        f"\nthe whole took {result.seconds:.0f} s\n"
        f"report                {result.report}   open it in a browser\n"
        "\nTry next:\n"
        "  raycap caption YOUR_FOLDER captions/ --model demo     your own images\n"
        "  raycap caption YOUR_FOLDER blip/                      the same, by pretrained BLIP\n"
        f"  raycap caption YOUR_FOLDER tuned/ --model {result.folder}/training/model",
        highlight=False,
        soft_wrap=True,
    )


def _comparison(result: DemoResult) -> Table:
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


def _samples(result: DemoResult) -> Table:
    table = Table("image", "", "caption", title="\nsamples", title_justify="left", box=None)
    for sample in result.samples:
        table.add_row(escape(sample.image_id), "pretrained", escape(sample.before))
        table.add_row("", "fine-tuned", escape(sample.after))
        table.add_row("", "people", escape(sample.reference))
    return table
