"""Estimate of a run from a sample: speed of each stage, bottleneck, duration and cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raycap import schema
from raycap.errors import ErrorCode
from raycap.results.preflight import DECODE, FETCH, MODEL, Counts, Estimate, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A batch, or two at a time, that a captioner answered."""

    captioner: str
    batch_size: int
    num_images: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a captioner is once it is under way."""

    seconds_per_image: float
    """Of an image that reaches the model."""
    batch_size: int
    """Images a batch, at the end."""
    may_grow: bool
    """Whether larger batches, for which the sample was too small, may turn out faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many of what a run has at work at a time, with what the cluster has now."""

    captioners: int
    load_tasks: int
    cores: int
    """CPU cores, those that captioners reserve left out where these compute on GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAhead:
    """What a run is to do, and with what."""

    num_images: int
    """Images that are left to caption."""
    workers: Workers
    max_batch: int
    """The largest batch that its captioners choose."""
    gpus_per_captioner: float
    """0 where captioners compute on the cores that also decode."""
    fetch_threads: int
    """Images that one load task fetches at a time."""
    fetches_tell: bool
    """Whether fetching a sample says how fast all is fetched."""
    price_per_hour: float | None
    """Of a GPU, or of a captioner where there are none."""
    is_remote: bool = False
    """Whether servers compute, and not the cores that decode."""
    start_s: float
    """Seconds until the first images are answered: workers start, and load the model."""


def count(answered: pa.Table) -> Counts:
    """Count SAMPLE_ANSWERED rows."""
    is_ok = pc.equal(answered[schema.STATUS], schema.STATUS_OK)
    ok, failed = answered.filter(is_ok), answered.filter(pc.invert(is_ok))
    return Counts(
        num_images=len(answered),
        num_ok=len(ok),
        failed=dict(sorted(Counter(failed[schema.ERROR_CODE].to_pylist()).items())),
        mean_words=pc.mean(ok[schema.NUM_WORDS]).as_py() or 0.0,
        lengths=dict(sorted(Counter(ok[schema.NUM_WORDS].to_pylist()).items())),
    )


def rounds_of(answered: pa.Table) -> list[Round]:
    """Return the rounds of SAMPLE_ANSWERED rows, those of each captioner in order."""
    rounds: list[dict[str, Any]] = pc.list_flatten(answered[schema.ROUNDS]).to_pylist()
    return [Round(**one) for one in rounds]


def pace(rounds: Sequence[Round], max_batch: int) -> Pace | None:
    """Return the speed of captioners after warm-up, at their final batch size.

    The first round of a batch size allocates memory and selects kernels. It is left out unless it
    is the only round.

    Args:
        rounds: Of any number of captioners, those of each in order.
        max_batch: The largest batch size that a run can choose.
    """
    if not rounds:
        return None
    name = attrgetter("captioner")
    by_captioner = groupby(sorted(rounds, key=name), key=name)
    kept = [one for _, own in by_captioner for one in _final_rounds(list(own))]
    size = max(one.batch_size for one in kept)
    tried = max(one.batch_size for one in rounds)
    return Pace(
        seconds_per_image=sum(one.seconds for one in kept) / sum(one.num_images for one in kept),
        batch_size=size,
        may_grow=size == tried and 2 * size <= max_batch,
    )


def estimate(answered: pa.Table, run: RunAhead) -> Estimate | None:
    """Estimate the duration of a run from a sample; None if no image reached the model.

    Args:
        answered: SAMPLE_ANSWERED rows.
        run: The work and the workers of the run.
    """
    paced = pace(rounds_of(answered), run.max_batch)
    if paced is None:
        return None
    stages = _stages(answered, paced, run)
    rate = run_rate(stages, shares_cores=not run.gpus_per_captioner and not run.is_remote)
    run_s = run.start_s + run.num_images / rate if run.num_images else 0.0
    unit_hours = run_s / 3600 * run.workers.captioners * (run.gpus_per_captioner or 1.0)
    return Estimate(
        stages=stages,
        bottleneck=bottleneck(stages),
        images_per_s=rate,
        run_s=run_s,
        num_captioners=run.workers.captioners,
        unit="GPU" if run.gpus_per_captioner else "captioner",
        unit_hours=unit_hours,
        cost=None if run.price_per_hour is None else unit_hours * run.price_per_hour,
        batch_size=paced.batch_size,
        may_grow=paced.may_grow,
    )


def stage(name: str, seconds_per_image: float, at_a_time: int) -> Stage:
    """Return the speed of a stage with this many threads, cores or captioners."""
    return Stage(
        name=name,
        seconds_per_image=seconds_per_image,
        at_a_time=at_a_time,
        images_per_s=at_a_time / seconds_per_image if seconds_per_image else None,
    )


def run_rate(stages: Sequence[Stage], *, shares_cores: bool) -> float:
    """Return images per second of concurrent stages, which is that of the slowest.

    Args:
        stages: At least one with a rate.
        shares_cores: Whether the model computes on the cores that decode, so that an image needs
            them for both, one after the other.
    """
    rates = {one.name: one.images_per_s for one in stages if one.images_per_s is not None}
    if shares_cores and DECODE in rates and MODEL in rates:
        rates[MODEL] = 1 / (1 / rates.pop(DECODE) + 1 / rates[MODEL])
    return min(rates.values())


def bottleneck(stages: Sequence[Stage]) -> str:
    """Return the name of the slowest stage that has a rate."""
    rates = {one.name: one.images_per_s for one in stages if one.images_per_s is not None}
    return min(rates, key=lambda name: rates[name])


def _stages(answered: pa.Table, paced: Pace, run: RunAhead) -> tuple[Stage, ...]:
    counts = count(answered)
    num_reached = counts.num_ok + counts.failed.get(ErrorCode.MODEL_REJECTED, 0)
    model_s = paced.seconds_per_image * num_reached / counts.num_images
    num_fetching = run.workers.load_tasks * run.fetch_threads
    fetch = stage(FETCH, _mean(answered[schema.FETCH_S]), num_fetching)
    return (
        fetch if run.fetches_tell else replace(fetch, images_per_s=None),
        stage(DECODE, _mean(answered[schema.DECODE_S]), run.workers.cores),
        stage(MODEL, model_s, run.workers.captioners),
    )


def _final_rounds(rounds: list[Round]) -> list[Round]:
    """Return the rounds of a captioner at its final batch size; of few rounds, all."""
    whole = [one for one in rounds if one.num_images >= one.batch_size] or rounds
    final = [one for one in whole if one.batch_size == whole[-1].batch_size]
    return final[1:] or whole[1:] or whole


def _mean(seconds: pa.ChunkedArray) -> float:
    mean: float = pc.mean(seconds).as_py()
    return mean
