"""Reading the corrections of an output, and its rows through them.

Half of the corrections are savings of one edit each, the other half is one find-and-replace.

    python -m bench.edits [--rows 1000000] [--edits 200000]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from raycap import schema
from raycap.captioning.output import FinishedOutput
from raycap.captioning.parts import CAPTIONS, encode_captions
from raycap.config import EditsMode, StorageConfig
from raycap.edits.log import EDITS, edit_id, edit_key
from raycap.edits.overlay import Overlay
from raycap.edits.records import Edit, EditAction, encode_edits
from raycap.edits.writing import EditWriter, new_batch
from raycap.storage.local import LocalStore
from raycap.storage.parts import part_key

PART = 1_000
CAPTION = "a photo of a small brown dog that runs over a green field in the evening"


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the seconds of a block, of the clock and of the CPU, and the peak memory so far."""
    started, cpu = time.monotonic(), time.process_time()
    yield
    elapsed, cpu = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {elapsed:.2f} s, {cpu:.2f} s of CPU, peak {peak:,.0f} MB", flush=True)


def image_id(number: int) -> str:
    """Return the id of an image."""
    return f"photos/{number:09d}.jpg"


def write_rows(folder: Path, count: int) -> None:
    """Write captions parts."""
    (folder / CAPTIONS).mkdir(parents=True)
    for start in range(0, count, PART):
        numbers = range(start, min(start + PART, count))
        filled = {
            schema.IMAGE_ID: [image_id(number) for number in numbers],
            schema.URI: [f"s3://bucket/{image_id(number)}" for number in numbers],
            schema.STATUS: [schema.STATUS_OK] * len(numbers),
            schema.ATTEMPTS: [1] * len(numbers),
            schema.CAPTION: [CAPTION] * len(numbers),
            schema.NUM_WORDS: [16] * len(numbers),
            schema.LOGPROB: [-1.0] * len(numbers),
            schema.ALTERNATIVES: [[] for _ in numbers],
            schema.DIGEST: [f"{number:064x}" for number in numbers],
        }
        columns = [
            pa.array(filled.get(field.name, [None] * len(numbers)), field.type)
            for field in schema.CAPTIONS
        ]
        data, _ = encode_captions(pa.table(columns, schema=schema.CAPTIONS), 1, 0)
        (folder / part_key(CAPTIONS, start // PART)).write_bytes(data)


def edit_of(number: int, action: EditAction, batch: str | None = None) -> Edit:
    """Return an edit of an image."""
    new = "a brown dog on a green field" if action == EditAction.TEXT else None
    return Edit(
        image_id=image_id(number),
        action=action,
        old=CAPTION,
        new=new,
        digest=f"{number:064x}",
        batch=batch,
    )


def write_savings(folder: Path, count: int, step: int) -> None:
    """Write single savings as `EditWriter` does, but do not wait for the disk after each."""
    (folder / EDITS).mkdir()
    for number in range(1, count + 1):
        action = (EditAction.TEXT, EditAction.APPROVE)[number % 2]
        edit = edit_of((number - 1) * step, action)
        saved = replace(edit, edit_id=edit_id(number, 1), by="ann", at="2026-01-01T00:00:00+00:00")
        (folder / edit_key(number)).write_bytes(encode_edits([saved]))


def main() -> None:
    """Write an output, and read it through its corrections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--edits", type=int, default=200_000)
    given = parser.parse_args()
    step = 2 * given.rows // given.edits
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as name:
        folder, store = Path(name), LocalStore(Path(name))
        write_rows(folder, given.rows)
        write_savings(folder, given.edits // 2, step)
        with measured("first reviewer: read single savings"):
            writer = EditWriter(store, by="ann")
        batch = new_batch()
        numbers = range(step // 2, given.rows, step)
        edits = [edit_of(number, EditAction.TEXT, batch) for number in numbers]
        with measured(f"save {len(edits):,} edits at once, and pack the others"):
            writer.save(edits)
        with measured("save one more"):
            writer.save([edit_of(1, EditAction.REJECT)])
        del writer, edits
        with measured("open the overlay"):
            overlay = Overlay.open(store, StorageConfig())
        output = FinishedOutput(
            store=store,
            config=StorageConfig(),
            parts=list(range((given.rows + PART - 1) // PART)),
            num_images=given.rows,
            read_ahead=16,
            max_image_bytes=1,
            dataset=None,
            overlay=overlay,
        )
        for mode in EditsMode:
            with measured(f"read all rows, edits={mode}"):
                sum(map(len, replace(output, edits=mode).pages()))


if __name__ == "__main__":
    main()
