"""What the demonstration came to."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raycap.demo.run import DemoResult
from raycap.tables.bulk import summary_rows, verification_rows
from raycap.tables.columns import print_rows


def print_demo(result: DemoResult) -> None:
    """Print what the demonstration came to, some captions, and what to try next."""
    share = result.num_right / max(1, result.summary.num_ok)
    print_rows(
        [
            *summary_rows(result.summary),
            ("exactly right", f"{share:.1%} of the captions"),
            *verification_rows(result.verification)[-2:],
        ]
    )
    samples = Table("image", "caption", "", title="samples", title_justify="left", box=None)
    for sample in result.samples:
        mark = "[green]right[/green]" if sample.is_right else "[red]wrong[/red]"
        samples.add_row(escape(sample.image_id), escape(sample.caption), mark)
    Console().print(samples)
    Console().print(
        "\nTry next:\n"
        f"  raycap caption YOUR_FOLDER captions/ --model demo     your own images\n"
        f"  raycap caption YOUR_FOLDER blip/                      the same, by pretrained BLIP\n"
        f"  raycap export {result.captions} captions.jsonl --to jsonl",
        highlight=False,
        soft_wrap=True,
    )
