"""What reports are made of, written by hand: evaluations and caption outputs of rendered scenes."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycap import schema
from raycap.captioning.parts import CAPTIONS, encode_captions, read_part
from raycap.config import StorageConfig
from raycap.demo.scenes import Scene, long_captions, short_caption, write_scenes
from raycap.results.captioning import Summary, write_summary
from raycap.results.evaluation import (
    Comparison,
    Diversity,
    Evaluation,
    LengthGap,
    Lengths,
    Metric,
    System,
    write_evaluation,
)
from raycap.storage.base import Store
from raycap.storage.local import etag_of
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.support.outputs import failed, row, write_output

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An evaluation on disk."""

    folder: Path
    images: Path
    evaluation: Evaluation
    rows: list[Rows]
    """For each system."""


def score_row(image_id: str, uri: str | None, caption: str | None, references: list[str]) -> Any:
    """Give a row of scores; they follow the words that caption and references share."""
    words = [] if caption is None else caption.split()
    shares = [len({*words} & {*text.split()}) / len(text.split()) for text in references]
    share = fmean(shares) if words else None
    empty = {field.name: None for field in schema.SCORES}
    return empty | {
        schema.IMAGE_ID: image_id,
        schema.URI: uri,
        schema.STATUS: schema.STATUS_OK if words else schema.STATUS_FAILED,
        schema.ERROR_CODE: None if words else "decode_failed",
        schema.CAPTION: caption,
        schema.LOGPROB: None if share is None else share - 1,
        schema.REFERENCE_CAPTIONS: references,
        schema.NUM_TOKENS: len(words) or None,
        schema.REFERENCE_TOKENS: [len(text.split()) for text in references],
        schema.ROUGE_L: share,
        schema.CIDER_D: None if share is None else 3 * share,
        schema.BLEU[0]: share,
        schema.BLEU[3]: None if share is None else share**4,
    }


def scene_rows(images: Path, scenes: list[tuple[str, Scene]], *, is_long: bool) -> Rows:
    """Caption scenes as pretrained models do, or as people do; every 17th fails."""
    rows = []
    for number, (name, scene) in enumerate(scenes):
        texts = long_captions(scene)
        caption = texts[number % 5] if is_long else short_caption(scene)
        said = None if is_long and number % 17 == 16 else caption
        rows.append(score_row(name, str(images / name), said, [*texts[:4], f"{texts[4]} indeed"]))
    return rows


def system_of(name: str, number: int, rows: Rows, references: list[int]) -> System:
    """Sum rows up; the intervals are made up, a little around the values."""
    ok = [row for row in rows if row[schema.CAPTION] is not None]
    lengths = [row[schema.NUM_TOKENS] for row in ok]
    gap = fmean(lengths) - fmean(references)
    metrics = [
        Metric(name=key, value=value, low=value * 0.94, high=value * 1.05)
        for key in (schema.BLEU[0], schema.BLEU[3], schema.ROUGE_L, schema.CIDER_D)
        for value in [fmean(row[key] for row in ok)]
    ]
    skipped = "needs a Java program: pip install 'raycap[java]'"
    return System(
        name=name,
        source=f"/captions/{name}",
        format="raycap",
        scores=f"scores/part-{number:03d}.parquet",
        model={"kind": "blip", "name": f"someone/{name}", "preprocessing": {"width_px": 384}},
        matched_by="image_id",
        num_images=len(rows),
        num_missing=0,
        num_extra=2,
        extra=["a.jpg", "b.jpg"],
        num_failed=len(rows) - len(ok),
        failed={"decode_failed": len(rows) - len(ok)} if len(rows) > len(ok) else {},
        mean_logprob=fmean(row[schema.LOGPROB] for row in ok),
        metrics=[*metrics, Metric(name=schema.METEOR, value=None, skipped=skipped)],
        lengths=lengths_of(lengths),
        length_gap=LengthGap(
            difference=gap, low=gap - 0.2, high=gap + 0.2, wasserstein=abs(gap) + 0.1
        ),
        diversity=Diversity(
            distinct_1=0.012,
            distinct_2=0.034,
            repetition=0.002,
            vocabulary_size=41,
            num_different_captions=len({row[schema.CAPTION] for row in ok}),
            copied_from_training=None,
        ),
    )


def lengths_of(lengths: list[int]) -> Lengths:
    """Sum lengths up."""
    return Lengths(
        mean=fmean(lengths), median=float(median(lengths)), histogram=dict(Counter(lengths))
    )


def evaluation_of(names: list[str], rows: list[Rows]) -> Evaluation:
    """Sum the rows of several systems up."""
    references = [count for row in rows[0] for count in row[schema.REFERENCE_TOKENS]]
    systems = [
        system_of(name, number, of, references)
        for number, (name, of) in enumerate(zip(names, rows, strict=True))
    ]
    comparisons = [
        Comparison(
            metric=metric,
            first=names[0],
            second=other,
            difference=-0.2,
            low=-0.3,
            high=-0.1,
            p_value=0.0,
        )
        for other in names[1:]
        for metric in (schema.BLEU[3], schema.CIDER_D, "length")
    ]
    return Evaluation(
        references="/data/scenes",
        splits=["test"],
        num_images=len(rows[0]),
        num_references=len(references),
        reference_lengths=lengths_of(references),
        tokenizer="raycap-1",
        missing_policy="error",
        confidence=0.95,
        num_resamples=1000,
        seed=0,
        systems=systems,
        comparisons=comparisons,
        wall_s=3.2,
        versions={"raycap": "0.1.0", "pyarrow": "26.0.1"},
        created_at="2026-11-24T07:00:00+00:00",
    )


def write_rows(store: Store, number: int, rows: Rows) -> None:
    """Write the scores of a system."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.SCORES), sink)
    store.write(f"scores/part-{number:03d}.parquet", sink.getvalue().to_pybytes())


def write_sample(folder: Path, names: list[str], rows: list[Rows], **changes: Any) -> Evaluation:
    """Write an evaluation with those rows; `changes` are of its record."""
    store = open_store(str(folder), StorageConfig())
    for number, of in enumerate(rows):
        write_rows(store, number, of)
    evaluation = replace(evaluation_of(names, rows), **changes)
    write_evaluation(store, evaluation)
    return evaluation


def scene_sample(folder: Path, num_scenes: int = 40) -> Sample:
    """Render scenes and write an evaluation of two systems: one short of words, one as people."""
    images = folder / "images"
    scenes = write_scenes(images, num_scenes, seed=7)
    rows = [scene_rows(images, scenes, is_long=is_long) for is_long in (False, True)]
    where = folder / "evaluation"
    evaluation = write_sample(where, ["blip", "tuned"], rows)
    return Sample(folder=where, images=images, evaluation=evaluation, rows=rows)


def write_captions(folder: Path, *parts: Rows, **changes: Any) -> str:
    """Write a finished caption output with those rows; `changes` are of its summary."""
    store = open_store(str(folder), StorageConfig())
    write_output(store, *parts)
    run = {
        "fingerprint": {},
        "config": {"generation": {"num_beams": 3, "prompt": ""}, "model": {"name": "demo"}},
        "versions": {},
        "created_at": "2026-11-24T06:58:00+00:00",
    }
    store.write("run.json", json.dumps(run).encode())
    rows = [item for part in parts for item in part]
    codes = Counter(item[schema.ERROR_CODE] for item in rows if item[schema.CAPTION] is None)
    num_words = sum(item[schema.NUM_WORDS] or 0 for item in rows)
    num_ok = len(rows) - codes.total()
    summary = Summary(
        output=store.uri,
        source="/photos/holiday",
        num_images=len(rows),
        num_ok=num_ok,
        num_failed=codes.total(),
        failed=dict(codes),
        skipped={".txt": 3},
        mean_words=round(num_words / max(1, num_ok), 2),
        num_bytes=1_234_567,
        num_captioned=len(rows),
        wall_s=12.3,
        images_per_s=34.5,
        model={"kind": "blip", "name": "demo", "digest": "d1" * 16},
        versions={"raycap": "0.1.0"},
        finished_at="2026-11-24T07:00:00+00:00",
    )
    write_summary(store, replace(summary, **changes))
    return store.uri


def commit_at(output: str, times: list[str]) -> None:
    """Let the parts of an output have been written at those times."""
    store = open_store(output, StorageConfig())
    for number, time in enumerate(times):
        rows = read_part(store, CAPTIONS, number)
        data, _ = encode_captions(rows, num_bytes=1, revision=0, committed_at=time)
        store.write(part_key(CAPTIONS, number), data)


def scene_captions(folder: Path, num_scenes: int = 60) -> str:
    """Render scenes, and write their captions in two parts, three images of which failed."""
    images = folder / "images"
    rows = [
        row(
            name,
            short_caption(scene),
            **{
                schema.URI: str(images / name),
                schema.ETAG: etag_of((images / name).stat()),
                schema.LOGPROB: -0.1 - (number * 7 % 60) / 50,
            },
        )
        for number, (name, scene) in enumerate(write_scenes(images, num_scenes, seed=3))
    ]
    (images / "z-empty.jpg").write_bytes(b"")
    (images / "z-half.jpg").write_bytes((images / rows[0][schema.IMAGE_ID]).read_bytes()[:900])
    broken = [
        failed(name) | {schema.URI: str(images / name), schema.ETAG: _etag(images / name), **what}
        for name, what in (
            ("z-empty.jpg", {schema.ERROR_CODE: "empty", schema.ERROR_MESSAGE: "0 bytes"}),
            ("z-half.jpg", {schema.ERROR_MESSAGE: "JPEG: image file is truncated"}),
            ("z-other.jpg", {schema.ERROR_MESSAGE: "JPEG: broken data stream"}),
        )
    ]
    half = len(rows) // 2
    output = write_captions(folder / "captions", rows[:half], [*rows[half:], *broken])
    commit_at(output, ["2026-11-24T07:00:00+00:00", "2026-11-24T07:00:09+00:00"])
    return output


def _etag(path: Path) -> str | None:
    return etag_of(path.stat()) if path.exists() else None


@pytest.fixture
def pillow_as_it_was() -> Iterator[None]:
    """Undo what a report sets for the whole process."""
    limit, level = Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level
    yield
    Image.MAX_IMAGE_PIXELS = limit
    logging.getLogger("PIL").setLevel(level)
