"""Caption datasets made without Ray: the same steps as `prepare`, in this process."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raycap import schema
from raycap.config import PrepareConfig
from raycap.datasets.building import NUM_UNREACHED, BuildSpec, build_parts
from raycap.datasets.planning import DatasetPlan, write_plan
from raycap.datasets.prepare import sum_up, write_index, write_rejected
from raycap.datasets.survey import find_duplicates, load_answers, write_moves
from raycap.results.dataset import WORK, DatasetRecord, write_record
from raycap.scratch import scratch_database
from raycap.storage.base import Store
from raycap.storage.stores import open_store

MARK = {"source": "made/by/hand", "format": "table"}


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """Write an image of coarse colours, in the format of the path's suffix; give its bytes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    sink = BytesIO()
    kind = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[path.suffix]
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(sink, kind, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sink.getvalue())
    return sink.getvalue()


def annotations(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Give ANNOTATIONS; what a row leaves out is null."""
    whole = [{**dict.fromkeys(schema.ANNOTATIONS.names), **row} for row in rows]
    return pa.Table.from_pylist(whole, schema=schema.ANNOTATIONS)


def folder_rows(folder: Path, captions: int = 2) -> list[dict[str, Any]]:
    """Caption every file of a folder."""
    return [
        {
            schema.IMAGE_ID: path.relative_to(folder).as_posix(),
            schema.URI: str(path),
            schema.CAPTION: f"{'a ' * number}picture of {path.stem} {number}",
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for number in range(captions)
    ]


def build(
    store: Store,
    plan: DatasetPlan,
    config: PrepareConfig,
    *,
    numbers: Sequence[int] | None = None,
    is_moving: bool = False,
    lock_token: str = "",
) -> int:
    """Build parts, or all; give the number of images that could not be reached."""
    parts = range(plan.num_parts) if numbers is None else numbers
    work = pa.table({schema.PART: pa.array(parts, pa.int64())})
    spec = BuildSpec(output=store.uri, config=config, is_moving=is_moving, lock_token=lock_token)
    return sum(step[NUM_UNREACHED][0].as_py() for step in build_parts(work, spec))


def finish(store: Store, plan: DatasetPlan, config: PrepareConfig) -> DatasetRecord:
    """Unite duplicates and write the last files."""
    with scratch_database(config.engine.memory_bytes) as database:
        load_answers(database, store, plan, 4)
        duplicates = find_duplicates(database)
        moving = write_moves(database, store)
        build(store, plan, config, numbers=moving, is_moving=True)
        write_rejected(database, store)
        record = sum_up(database, plan, write_index(database, store, plan), duplicates, config)
    write_record(store, record)
    store.delete_all(WORK)
    return record


def make_dataset(
    output: Path, rows: Sequence[dict[str, Any]], config: PrepareConfig
) -> DatasetRecord:
    """Make a dataset of those captions."""
    store = open_store(str(output), config.storage)
    plan = write_plan(store, [annotations(rows)], config, MARK)
    assert build(store, plan, config) == 0
    return finish(store, plan, config)
