"""`raycap caption`, with `--dry-run` and `--preflight`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raycap.config import CaptionConfig, StorageConfig
from raycap.config.loading import load_config
from raycap.console.options import (
    CaptionSetOption,
    ConfigOption,
    DebugOption,
    ModelOption,
    OutputArg,
    SourceArg,
    SplitOption,
)
from raycap.console.renamed import Command
from raycap.console.terminal import print_rows, stderr, told_errors
from raycap.errors import EXIT_TOO_MANY_FAILED, ConfigError, DatasetError, StorageError
from raycap.reporting.numbers import (
    brief,
    decimal,
    integer,
    moment,
    percent,
    plural,
)
from raycap.results.display import Rows
from raycap.text import amount, duration

if TYPE_CHECKING:
    from raycap.results.preflight import Estimate, Preflight, Stage


RETRY_FAILED = "--retry-failed"


class CaptionCommand(Command):
    """The command, with an option whose value is optional."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse: `--retry-failed` alone means transient codes."""
        end = args.index("--") if "--" in args else len(args)
        full = [
            f"{RETRY_FAILED}=transient" if one == RETRY_FAILED and place < end else one
            for place, one in enumerate(args)
        ]
        return super().parse_args(ctx, full)


def caption(
    source: SourceArg,
    output: OutputArg,
    model: ModelOption = None,
    split: SplitOption = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Caption only the first N images, in the order of their ids."),
    ] = None,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            RETRY_FAILED,
            metavar="[=CODES]",
            help="Retry images that failed for a transient reason, or those with the codes given: "
            "`--retry-failed=not_found,forbidden`, or `all`.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what a run would do, and exit.")
    ] = False,
    preflight: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Caption N random images, and estimate the time and cost of the whole run. "
            "Writes to OUTPUT/preflight only.",
            show_default=False,
        ),
    ] = None,
    cascade: Annotated[
        str | None,
        typer.Option(
            "--cascade", help="A second, larger model for weak captions; requires --below."
        ),
    ] = None,
    below: Annotated[
        float | None,
        typer.Option(
            "--below", help="Captions with a logprob below this are weak, for example -1.2."
        ),
    ] = None,
    source_moved_from: Annotated[
        str | None,
        typer.Option(
            "--source-moved-from",
            help="Former address of a source that has moved to SOURCE: continue its run.",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        Literal["text"] | None,
        typer.Option(
            "--again",
            help="Apply the settings in `text` to the answers that a finished OUTPUT keeps "
            "(text.keep_answer), without the model.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    settings: CaptionSetOption = None,
    debug: DebugOption = False,
) -> None:
    """Caption every image of SOURCE exactly once, and write the captions to OUTPUT.

    Run the same command again to continue an interrupted run, or to caption images that are new
    or have changed since.

    Example: `raycap caption photos/ captions/ --model demo --set generation.num_beams=5`

    Exit codes: 0 complete; 1 stopped; 2 wrong usage or settings; 3 complete, but the share of
    failed images exceeds `engine.max_failed_share` (retry them with `--retry-failed`).
    """
    with told_errors(debug=debug):
        named = {
            "model.name": model,
            "source.split": split,
            "cascade.model": cascade,
            "cascade.below": below,
        }
        resolved = load_config(CaptionConfig, config, settings, named)
        if dry_run and preflight is not None:
            raise ConfigError("--dry-run and --preflight cannot be combined: give one of them")
        if again is not None:
            _check_alone(dry_run, preflight, limit, retry_failed)
        retried = retry_failed if retry_failed is not None else False
        choice = {
            "config": resolved,
            "source_moved_from": source_moved_from,
            "limit": limit,
            "retry_failed": retried,
        }
        if dry_run:
            _print_forecast(source, output, choice)
            return
        if preflight is not None:
            failed_share = _preflight(source, output, preflight, choice, debug=debug)
        else:
            failed_share = _caption(source, output, {**choice, "again": again}, debug=debug)
        if failed_share > resolved.engine.max_failed_share:
            stderr().print(
                f"[red]{failed_share:.1%} of the images failed, more than "
                f"engine.max_failed_share={resolved.engine.max_failed_share:g} allows; "
                "--retry-failed retries those that failed for a transient reason, "
                "--retry-failed=CODE,CODE those with other codes[/red]"
            )
            raise typer.Exit(EXIT_TOO_MANY_FAILED)


def _check_alone(*others: object) -> None:
    """Refuse to combine `--again` with options that concern the captioning of images."""
    if any(other not in (None, False) for other in others):
        raise ConfigError(
            "--again cannot be combined with --dry-run, --preflight, --limit or --retry-failed: "
            "leave those out",
            setting="again",
        )


def _print_forecast(source: str, output: str, choice: dict[str, Any]) -> None:
    from raycap.captioning.run import forecast
    from raycap.results.shown.captioning import forecast_rows

    print_rows(forecast_rows(forecast(source, output, **choice)))


def _caption(source: str, output: str, choice: dict[str, Any], *, debug: bool) -> float:
    """Run the captioning, print the summary, and return the share of failed images."""
    from raycap.captioning.run import caption as caption_images
    from raycap.console.progress import show_progress
    from raycap.results.shown.captioning import summary_rows

    with show_progress(stderr()) as on_progress:
        summary = caption_images(source, output, on_progress=on_progress, debug=debug, **choice)
    rows = summary_rows(summary)
    if choice["again"] is not None:
        rows = [(name, _AGAIN if name == "this run" else value) for name, value in rows]
    print_rows([*rows, *_edit_rows(output, choice["config"].storage)])
    return summary.failed_share


def _edit_rows(output: str, storage: StorageConfig) -> Rows:
    """Return a row about the corrections in an output; the run is complete, whatever they are."""
    from raycap.captioning.status import count_reviews
    from raycap.results.shown.captioning import edit_rows
    from raycap.storage.stores import open_store

    try:
        return edit_rows(count_reviews(open_store(output, storage), storage))
    except (DatasetError, StorageError) as error:
        return [("corrections", str(error))]


_AGAIN = "no image captioned: the rules in `text` were applied to the kept answers"


def _preflight(
    source: str, output: str, num_images: int, choice: dict[str, Any], *, debug: bool
) -> float:
    """Run the preflight, print its result, and return the share of failed images."""
    from raycap.console.progress import show_progress
    from raycap.preflights.run import preflight

    with show_progress(stderr()) as on_progress:
        found = preflight(
            source, output, num_images, on_progress=on_progress, debug=debug, **choice
        )
    print_rows(preflight_rows(found))
    print(f"\n{preflight_sentence(found)}")
    for note in preflight_notes(found):
        print(note)
    return found.sample.failed_share


def preflight_rows(found: "Preflight") -> list[tuple[str, str]]:
    """Return the result of a preflight as names and values."""
    sample = found.sample
    rows = [
        ("sampled", f"{integer(sample.num_images)} of {plural(found.num_images, 'image')}"),
        ("captioned", integer(sample.num_ok)),
        ("failed", f"{integer(sample.num_failed)} ({percent(sample.failed_share)})"),
        *((f"  {code}", integer(number)) for code, number in sample.failed.items()),
    ]
    if sample.num_ok:
        rows.append(("mean words", decimal(sample.mean_words, 2)))
    if found.estimate is not None:
        rows += _estimate_rows(found.estimate, found.price_per_hour)
    if found.tokens is not None:
        tokens = found.tokens
        read, written = integer(tokens.num_prompt_tokens), integer(tokens.num_tokens)
        rows.append(("tokens", f"{read} read, {written} written"))
        if tokens.cost is not None:
            rows.append(("cost of tokens", amount(tokens.cost)))
    return [*rows, ("contact sheet", f"{found.contact_sheet}   open it in a browser")]


def preflight_sentence(found: "Preflight") -> str:
    """Return the estimated duration of the run as one sentence."""
    ahead = found.estimate
    if not found.num_pending:
        return "nothing to caption: every image already has a row"
    images = plural(found.num_pending, "image")
    if ahead is None:
        return f"{images}: no estimate, as no sampled image reached the model"
    ends = "in more than a century" if found.ends_at is None else f"about {moment(found.ends_at)}"
    return (
        f"{images} at {decimal(ahead.images_per_s, 1)} images/s on "
        f"{plural(ahead.num_captioners, 'captioner')}: about {duration(ahead.run_s)} (ends {ends})"
    )


def preflight_notes(found: "Preflight") -> list[str]:
    """Return what makes the estimate uncertain."""
    from raycap.reporting.preflight import warnings

    return [f"{what} {more}" for what, more in warnings(found)]


def _estimate_rows(ahead: "Estimate", price_per_hour: float | None) -> list[tuple[str, str]]:
    rows = [(stage.name, _describe(stage, ahead.bottleneck)) for stage in ahead.stages]
    rows.append((f"{ahead.unit}-hours", amount(ahead.unit_hours)))
    if ahead.cost is not None:
        rows.append(("cost", f"{amount(ahead.cost)}, at {price_per_hour:g} per hour"))
    return rows


def _describe(stage: "Stage", bottleneck: str) -> str:
    each = f"{brief(stage.seconds_per_image)} per image"
    from raycap.reporting.preflight import WORKERS

    workers = plural(stage.at_a_time, WORKERS[stage.name])
    if stage.images_per_s is None:
        return f"{each}; not measurable on a sample"
    mark = "   <- the bottleneck" if stage.name == bottleneck else ""
    return f"{each}, {workers}: {decimal(stage.images_per_s, 1)} images/s{mark}"
