"""Exports to one file: JSON Lines, CSV, Parquet and COCO."""

from collections.abc import Callable
from functools import partial
from typing import BinaryIO

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


def _file_exporter(
    write: Callable[[formats.Pages, BinaryIO], int], suffix: str, *, is_coco: bool = False
) -> Exporter:
    def export(job: ExportJob) -> ExportCounts:
        rows = job.rows
        store, key = open_file(job.destination, rows.config, example=f"captions.{suffix}")
        if job.existing is Existing.REFUSE:
            refuse(store, filter(partial(exists, store), [key]))
        with staged(store, key) as file:
            num_exported = write(rows.pages, file)
        is_named = not is_coco or formats.has_numbers(rows.pages)
        return ExportCounts(
            num_exported=num_exported,
            num_failed_skipped=rows.num_images - num_exported,
            notes=() if is_named else (_NOT_NUMBERED,),
        )

    return Exporter(write=export)


EXPORTERS = {
    ExportFormat.JSONL: _file_exporter(formats.write_jsonl, "jsonl"),
    ExportFormat.CSV: _file_exporter(formats.write_csv, "csv"),
    ExportFormat.PARQUET: _file_exporter(formats.write_parquet, "parquet"),
    ExportFormat.COCO: _file_exporter(formats.write_coco, "json", is_coco=True),
    ExportFormat.COCO_RESULTS: _file_exporter(formats.write_coco_results, "json", is_coco=True),
}
