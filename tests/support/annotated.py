"""Reading annotations in tests: as rows, and briefly."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycap import schema
from raycap.config import StorageConfig
from raycap.datasets.readers import open_annotations
from raycap.datasets.readers.recognition import AnnotationFormat

CONFIG = StorageConfig(num_retries=0, timeout_s=20)
BOM = "\ufeff"


def read(
    source: Path | str,
    format: AnnotationFormat | None = None,
    images: Path | str | None = None,
) -> list[dict[str, Any]]:
    """Read all rows of a source."""
    folder = None if images is None else str(images)
    found = open_annotations(str(source), CONFIG, format=format, images=folder)
    tables = [schema.ANNOTATIONS.empty_table(), *found.tables]
    assert all(table.schema == schema.ANNOTATIONS for table in tables)
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def format_of(source: Path | str) -> str:
    """Say what a source is recognised as."""
    return open_annotations(str(source), CONFIG).format


def brief(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    """Give some columns of rows."""
    return [tuple(row[column] for column in columns) for row in rows]


def captions(rows: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Give image ids and captions."""
    return [(row["image_id"], row["caption"]) for row in rows]


def places(rows: list[dict[str, Any]], root: Path | str) -> dict[str, str | None]:
    """Give where the images are, relative to a folder."""
    return {
        row["image_id"]: row["uri"] and os.path.relpath(row["uri"], root).replace(os.sep, "/")
        for row in rows
    }


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write some files below a folder; give the folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
