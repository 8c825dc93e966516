"""`raycap review` of a large output: time until the page can be opened, and of what it asks for.

The captions are made up of random words; the images do not exist, and none is shown. Times are
those of HTTP requests to the real server: the first of each kind, the median of the next ones, and
the processor time of those, which other programs do not lengthen much.

    python -m bench.review [--rows 1000000] [--edits 0] [--folder FOLDER]
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

import numpy as np
import pyarrow as pa

from raycap import schema
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    manifest_footer,
)
from raycap.config import ReviewConfig, StorageConfig
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter
from raycap.reviewing.review import review
from raycap.reviewing.server import Server
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store

PART_ROWS = 1_000
_TEXT = (
    "a the on in of with and red blue green small large dog cat man woman street table car tree "
    "house horse bird water beach snow field train standing sitting holding riding looking"
)
WORDS = _TEXT.split()
NUM_REPEATS = 7


def write_output(folder: Path, num_rows: int) -> None:
    """Write a finished output of random captions, one in fifty of them failed."""
    store, draws = open_store(str(folder), StorageConfig()), np.random.default_rng(7)
    store.write("run.json", b"{}")
    for number, first in enumerate(range(0, num_rows, PART_ROWS)):
        count = min(PART_ROWS, num_rows - first)
        ids = [f"photos/{place:09d}.jpg" for place in range(first, first + count)]
        uris = [f"/data/{name}" for name in ids]
        etags = [f"{place:032x}" for place in range(first, first + count)]
        manifest = pa.table([ids, uris, [1] * count, etags, [None] * count], schema=schema.MANIFEST)
        data = encode_manifest(manifest, manifest_footer(manifest))
        store.write(part_key(MANIFEST, number), data)
        lengths = draws.integers(5, 16, count)
        captions = [" ".join(draws.choice(WORDS, length)) for length in lengths]
        logprobs = -draws.gamma(2.0, 0.4, count)
        rows = [_row(*of) for of in zip(ids, uris, etags, captions, logprobs.tolist(), strict=True)]
        for place in np.flatnonzero(draws.random(count) < 0.02):
            rows[place] |= dict.fromkeys([schema.CAPTION, schema.NUM_WORDS, schema.LOGPROB])
            rows[place] |= {schema.STATUS: schema.STATUS_FAILED, schema.ERROR_CODE: "decode_failed"}
        table = pa.Table.from_pylist(rows, schema=schema.CAPTIONS)
        part, _ = encode_captions(table, num_bytes=1, revision=0)
        store.write(part_key(CAPTIONS, number), part)


def _row(image_id: str, uri: str, etag: str, caption: str, logprob: float) -> dict[str, Any]:
    return {
        schema.IMAGE_ID: image_id,
        schema.URI: uri,
        schema.ETAG: etag,
        schema.STATUS: schema.STATUS_OK,
        schema.ATTEMPTS: 1,
        schema.CAPTION: caption,
        schema.NUM_WORDS: len(caption.split()),
        schema.LOGPROB: logprob,
        schema.WIDTH_PX: 640,
        schema.HEIGHT_PX: 480,
        schema.ALTERNATIVES: [],
    }


def write_edits(folder: Path, num_edits: int) -> None:
    """Edit the first captions, ten thousand at a time."""
    writer = EditWriter(open_store(str(folder), StorageConfig()), "bench")
    for first in range(0, num_edits, 10_000):
        writer.save(
            [
                Edit(
                    image_id=f"photos/{place:09d}.jpg",
                    action=EditAction.TEXT,
                    new=f"what number {place} shows",
                    etag=f"{place:032x}",
                )
                for place in range(first, min(first + 10_000, num_edits))
            ]
        )


class Page:
    """What the page in a browser would ask for."""

    def __init__(self, server: Server) -> None:
        self._base = "http://" + urlsplit(server.address).netloc
        self._opener: OpenerDirector = build_opener(HTTPCookieProcessor())
        self._opener.open(server.address).read()

    def get(self, path: str) -> dict[str, Any]:
        """Read JSON."""
        with self._opener.open(self._base + path) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send JSON."""
        headers = {"Content-Type": "application/json"}
        request = Request(self._base + path, json.dumps(body).encode(), headers)  # noqa: S310  http
        with self._opener.open(request) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def measure(page: Page, num_rows: int) -> Iterator[tuple[str, float, float, float]]:
    """Yield each request by name, with its seconds as `timed` returns them."""
    deep = num_rows * 9 // 10
    asked = {
        "first page": "/api/items?anew=1",
        "the same page again": "/api/items",
        "sorted by log-probability": "/api/items?sort=logprob&descending=true&anew=1",
        "sorted, deep": f"/api/items?sort=logprob&descending=true&first={deep}",
        "filtered and sorted": "/api/items?min_words=8&max_logprob=-1&sort=logprob&anew=1",
        "searched": "/api/items?text=horse+beach&anew=1",
        "searched for an image id": "/api/items?text=000012345&anew=1",
        "failed": "/api/items?status=decode_failed&anew=1",
        "unreviewed": "/api/items?state=unreviewed&anew=1",
        "in order, deep": f"/api/items?first={deep}",
        "one image": "/api/items/4711",
    }
    for name, path in asked.items():
        yield name, *timed(lambda path=path: page.get(path))  # type: ignore[misc]
    rule = {"find": "riding", "replacement": "sitting on"}
    body = {"filter": {"text": "horse riding beach"}, "rule": rule}
    yield "find and replace, preview", *timed(lambda: page.post("/api/replacements", body), 1)
    name = page.post("/api/replacements", body)["name"]
    yield "find and replace, save", *timed(lambda: page.post(f"/api/replacements/{name}", {}), 0)
    item = page.get("/api/items/99")["item"]

    def edit() -> None:
        change = {"item": 99, "old": item["caption"], "after": item["version"]}
        saved = page.post("/api/edits", {**change, "action": "text", "new": f"{time.time()}"})
        item.update(saved["item"])

    yield "saving a caption", *timed(edit)


def timed(work: Callable[[], Any], num_repeats: int = NUM_REPEATS) -> tuple[float, float, float]:
    """Return the seconds of the first call, the median of further ones, and that of their CPU."""
    taken, computed = [], []
    for _ in range(num_repeats + 1):
        started, used = time.perf_counter(), time.process_time()
        work()
        taken.append(time.perf_counter() - started)
        computed.append(time.process_time() - used)
    return taken[0], statistics.median(taken[1:] or taken), statistics.median(computed)


@contextmanager
def folder_for(given: Path | None) -> Iterator[Path]:
    """Give the folder, or a temporary one."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as folder:
        yield Path(folder)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--edits", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept, and used again if it has an output")
    arguments = parser.parse_args()
    with folder_for(arguments.folder) as folder:
        if not (folder / "run.json").exists():
            write_output(folder, arguments.rows)
        if arguments.edits:
            write_edits(folder, arguments.edits)
        started, used = time.perf_counter(), time.process_time()

        def on_ready(server: Server) -> None:
            print(f"{'until the page can be opened':32} {time.perf_counter() - started:8.2f} s")
            print(f"{'of processor time':32} {time.process_time() - used:8.2f} s")
            for name, *seconds in measure(Page(server), arguments.rows):
                print(f"{name:32}", *(f"{taken * 1000:8.0f} ms" for taken in seconds))
            server.stop()

        review(folder, config=ReviewConfig(open_browser=False), on_ready=on_ready)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MB")


if __name__ == "__main__":
    main()
