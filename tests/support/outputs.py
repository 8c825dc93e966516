"""Outputs of finished runs, written by hand: a few rows each, no images needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    manifest_footer,
)
from raycap.config import StorageConfig
from raycap.results.captioning import Summary
from raycap.storage.base import Store
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store

AWKWARD = 'a "quoted",\ncat;\r\nünïcode \u2028 and\ttabs'
Part = list[dict[str, Any]]


def row(image_id: str, caption: str = "a cat on a mat", **changes: Any) -> dict[str, Any]:
    """Give a caption row, with `source_uri` for the manifest if that is another address."""
    return {
        schema.IMAGE_ID: image_id,
        schema.URI: f"/images/{image_id}",
        schema.ETAG: "1-2",
        schema.STATUS: schema.STATUS_OK,
        schema.ERROR_CODE: None,
        schema.ERROR_MESSAGE: None,
        schema.ATTEMPTS: 1,
        schema.CAPTION: caption,
        schema.NUM_WORDS: len(caption.split()),
        schema.LOGPROB: -0.3,
        schema.WIDTH_PX: 64,
        schema.HEIGHT_PX: 48,
        schema.ALTERNATIVES: [],
        **changes,
    }


def failed(image_id: str) -> dict[str, Any]:
    """Give the row of an image that has no caption."""
    nothing = dict.fromkeys(
        [schema.CAPTION, schema.NUM_WORDS, schema.LOGPROB, schema.WIDTH_PX, schema.HEIGHT_PX]
    )
    code = {schema.STATUS: "failed", schema.ERROR_CODE: "decode_failed"}
    return row(image_id) | nothing | code | {schema.ERROR_MESSAGE: "broken"}


def summary(num_images: int) -> Summary:
    """Give the summary of a run over so many images."""
    return Summary(
        output="out",
        source="photos",
        num_images=num_images,
        num_ok=num_images,
        num_failed=0,
        mean_words=5.0,
        num_bytes=1,
        num_captioned=num_images,
        wall_s=1.0,
        images_per_s=1.0,
    )


def write_output(store: Store, *parts: Part) -> str:
    """Write a finished run's output with those rows; give its address."""
    store.write("run.json", b"{}")
    for number, rows in enumerate(parts):
        uris = [item.get("source_uri", item[schema.URI]) for item in rows]
        ids = [item[schema.IMAGE_ID] for item in rows]
        columns = [ids, uris, [1] * len(ids), ["1-2"] * len(ids), [None] * len(ids)]
        manifest = pa.table(columns, schema=schema.MANIFEST)
        footer = manifest_footer(manifest)
        store.write(part_key(MANIFEST, number), encode_manifest(manifest, footer))
        captions = pa.Table.from_pylist(rows, schema=schema.CAPTIONS)
        data, _ = encode_captions(captions, num_bytes=1, revision=0)
        store.write(part_key(CAPTIONS, number), data)
    return store.uri


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., str]:
    """Give `output(part, part, ...)`, which writes them and gives the address."""

    def write(*parts: Part) -> str:
        return write_output(open_store(str(tmp_path / "output"), StorageConfig()), *parts)

    return write


@pytest.fixture
def two_parts(output: Callable[..., str]) -> str:
    """Write four rows, one of them failed and one hard to quote; give the address."""
    alternatives = [{schema.CAPTION: "one\tmore", schema.LOGPROB: -0.7}]
    return output(
        [row("a/1.jpg"), failed("a/2.jpg")],
        [row("b/3.jpg", AWKWARD, alternatives=alternatives), row("b/ü 4.png", "")],
    )


def files_under(folder: Path) -> dict[str, str]:
    """Every file below a folder: path to text."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes().decode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
