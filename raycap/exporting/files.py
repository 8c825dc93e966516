"""Exports to one file: JSON Lines, CSV, Parquet and COCO."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from raycap.config import Existing, ExportFormat
from raycap.exporting import formats
from raycap.exporting.destination import exists, refuse, staged
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.results.captioning import ExportCounts
from raycap.storage.stores import open_file

_NOT_NUMBERED = (
    "image ids: numbered from 1 in the order of the output, as the names of the images do not all "
    "end with a number of their own; they match no other COCO file"
)


def _table_exporter(
    write: Callable[[Iterator[pa.Table], pa.Schema, BinaryIO], int], suffix: str
) -> Exporter:
    def export(job: ExportJob) -> ExportCounts:
        def write_rows(file: BinaryIO) -> int:
            return write(job.rows.tables(), job.rows.written, file)

        return _export_file(job, write_rows, suffix)

    return Exporter(write=export, options=frozenset({"columns"}))


def _coco_exporter(write: Callable[[formats.Pages, BinaryIO], int]) -> Exporter:
    def export(job: ExportJob) -> ExportCounts:
        counts = _export_file(job, partial(write, job.rows.pages), "json")
        is_named = formats.has_numbers(job.rows.pages)
        return replace(counts, notes=() if is_named else (_NOT_NUMBERED,))

    return Exporter(write=export)


def _export_file(job: ExportJob, write: Callable[[BinaryIO], int], suffix: str) -> ExportCounts:
    store, key = open_file(job.destination, job.rows.config, example=f"captions.{suffix}")
    if job.existing is Existing.REFUSE:
        refuse(store, filter(partial(exists, store), [key]))
    with staged(store, key) as file:
        num_exported = write(file)
    return ExportCounts(
        num_exported=num_exported,
        num_failed_skipped=job.rows.num_images - num_exported,
    )


EXPORTERS = {
    ExportFormat.JSONL: _table_exporter(formats.write_jsonl, "jsonl"),
    ExportFormat.CSV: _table_exporter(formats.write_csv, "csv"),
    ExportFormat.PARQUET: _table_exporter(formats.write_parquet, "parquet"),
    ExportFormat.COCO: _coco_exporter(formats.write_coco),
    ExportFormat.COCO_RESULTS: _coco_exporter(formats.write_coco_results),
}
