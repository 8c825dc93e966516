"""Export of the captions of a finished run to formats of other tools.

Parts are streamed in order. Memory does not grow with the number of images, except for 8 or 16
bytes per image to keep names unique. It does not use Ray: captions are text, and tars are limited
by the speed of the stores.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from raycap.captioning.output import open_finished
from raycap.config import (
    EditsMode,
    Existing,
    ExportFormat,
    Gone,
    SameStem,
    StorageConfig,
    choose,
    renamed_flags,
)
from raycap.errors import ConfigError
from raycap.exporting import files, sidecars, tars
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.results.captioning import ExportCounts

EXPORTERS: Mapping[ExportFormat, Exporter] = {
    **files.EXPORTERS,
    ExportFormat.SIDECAR: sidecars.EXPORTER,
    ExportFormat.WEBDATASET: tars.EXPORTER,
}
"""What writes each format."""


@renamed_flags(force=("existing", "overwrite"), keep_existing=("existing", "skip"))
def export(  # noqa: PLR0913  the public call: all but two by keyword
    output: str | Path,
    destination: str | Path,
    *,
    to: ExportFormat | str,
    existing: Existing | str = Existing.REFUSE,
    same_stem: SameStem | str = SameStem.SUFFIX,
    gone: Gone | str = Gone.KEEP,
    prompt: str | None = None,
    edits: EditsMode | str = EditsMode.APPLY,
    storage: StorageConfig | None = None,
) -> ExportCounts:
    """Export the captions of a finished run.

    Args:
        output: The output of `raycap caption`, a folder or `s3://bucket/prefix`.
        destination: A file for `jsonl`, `csv`, `parquet`, `coco` and `coco-results`; a folder for
            `sidecar` (such as the folder of the images) and `webdataset`. Local or in a bucket.
        to: The format.
        existing: What becomes of files that exist at the destination: `refuse` (default),
            `overwrite`, or `skip` (`sidecar`), which keeps them and writes the others.
        same_stem: Names of the sidecars of images such as `x.jpg` and `x.png`: `suffix` (default),
            `first` or `error`.
        gone: `drop` leaves out images that were missing from the source when it was last listed.
        prompt: The named prompt whose answers to export; None for the first, if the run has any.
        edits: `apply` exports captions as reviewers left them, and what they made of each in the
            columns `edited`, `review` and `stale`; `ignore` exports those of the run; `only`
            exports those that reviewers have written or approved.
        storage: How stores are accessed; None for the defaults.

    Raises:
        ConfigError: an address is wrong, the destination exists, options exclude each other, or
            images share a stem and `same_stem` is `error`.
        DatasetError: `output` is not an output of raycap, is unfinished, or is damaged.
        StorageError: a store refuses a request.
    """
    to = choose(ExportFormat, to, "to")
    exporter = EXPORTERS[to]
    rows = open_finished(
        str(output),
        storage or StorageConfig(),
        drops_gone=choose(Gone, gone, "gone") is Gone.DROP,
        prompt=prompt,
        edits=choose(EditsMode, edits, "edits"),
    )
    job = ExportJob(
        rows=rows,
        destination=str(destination),
        existing=_allowed(to, exporter, choose(Existing, existing, "existing")),
        same_stem=choose(SameStem, same_stem, "same_stem"),
    )
    return replace(exporter.write(job), num_gone_skipped=rows.num_dropped)


def _allowed(to: ExportFormat, exporter: Exporter, existing: Existing) -> Existing:
    if existing not in exporter.existing:
        allowed = ", ".join(choice for choice in Existing if choice in exporter.existing)
        raise ConfigError(
            f"--existing {existing} is not for --to {to}; choose one of: {allowed}",
            setting="existing",
        )
    return existing
