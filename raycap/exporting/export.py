"""Export of the captions of a finished run to formats of other tools.

Parts are streamed in order. Memory does not grow with the number of images, except for 8 or 16
bytes per image to keep names unique. It does not use Ray: captions are text, and tars are limited
by the speed of the stores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from raycap.captioning.output import open_finished
from raycap.config import (
    EditsMode,
    Existing,
    ExportFormat,
    Gone,
    HubImages,
    Layout,
    Naming,
    SameStem,
    Shards,
    StorageConfig,
    choose,
    renamed_flags,
)
from raycap.edits.records import Review
from raycap.errors import ConfigError
from raycap.exporting import files, hf, metadata, sidecars, tars, xmp
from raycap.exporting.jobs import Exporter, ExportJob, HubOptions
from raycap.exporting.selection import Selection, selected
from raycap.results.captioning import ExportCounts
from raycap.schema import REVIEW, STALE

EXPORTERS: Mapping[ExportFormat, Exporter] = {
    **files.EXPORTERS,
    ExportFormat.SIDECAR: sidecars.EXPORTER,
    ExportFormat.METADATA: metadata.EXPORTER,
    ExportFormat.XMP: xmp.EXPORTER,
    ExportFormat.WEBDATASET: tars.EXPORTER,
    ExportFormat.HF: hf.EXPORTER,
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
    where: str | None = None,
    columns: Sequence[str] | str | None = None,
    join: str | Path | None = None,
    on: str | None = None,
    suffix: str | None = None,
    naming: Naming | str | None = None,
    layout: Layout | str | None = None,
    shards: Shards | str | None = None,
    images: HubImages | str | None = None,
    license: str | None = None,
    push: str | None = None,
    public: bool = False,
    storage: StorageConfig | None = None,
) -> ExportCounts:
    """Export the captions of a finished run.

    Args:
        output: The output of `raycap caption`, a folder or `s3://bucket/prefix`.
        destination: A file for `jsonl`, `csv`, `parquet`, `coco` and `coco-results`; a folder for
            `sidecar`, `metadata`, `xmp` (such as the folder of the images), `webdataset` and `hf`.
            Local or in a bucket.
        to: The format.
        existing: What becomes of files that exist at the destination: `refuse` (default), `skip`,
            `append`, `overwrite` or `import`; not every format has all of them.
        same_stem: Names of the sidecars of images such as `x.jpg` and `x.png`: `suffix` (default),
            `first` or `error`.
        gone: `drop` leaves out images that were missing from the source when it was last listed.
        prompt: The named prompt whose answers to export; None for the first, if the run has any, or
            for all (`hf`).
        edits: `apply` exports captions as reviewers left them, and what they made of each in the
            columns `edited`, `review` and `stale`; `ignore` exports those of the run; `only`
            exports those that reviewers have written or approved.
        where: A condition on the columns in SQL: images that do not meet it are left out.
        columns: What to write, in this order, such as `["image_id", "caption as text"]`, or as one
            text with commas. The answer to a named prompt is a struct, `short.caption` one of its
            fields; `*` is all that is written by default.
        join: Address of a table whose columns are added: Parquet, CSV, TSV, JSON or JSON Lines.
        on: The column by which it is joined, or `ours=theirs`; None for `image_id`.
        suffix: Of the files of `sidecar`; None for `.txt`.
        naming: Of the files of `sidecar` and `xmp`: `stem` replaces the suffix of the image, `full`
            adds one; None for `stem` with `sidecar` and `full` with `xmp`.
        layout: `root` (default) writes one `metadata.jsonl`, `folder` one per folder.
        shards: Tars of `webdataset`. If the source is tars, `whole` (default) writes a tar for each
            of them, with the samples that have a caption, and `captions` one with the captions
            alone. `parts` (default for other sources) writes one per part.
        images: Of a dataset for the Hugging Face Hub (`hf`): `embed` (default) stores the images in
            it, `addresses` where to read them.
        license: For the card of such a dataset, such as `cc-by-4.0`.
        push: Name of a dataset repository on the Hub, `user/name`, to upload such a dataset to; it
            is created if it does not exist. The destination must be local.
        public: Whether a repository that is created is public; else it is private.
        storage: How stores are accessed; None for the defaults.

    Raises:
        ConfigError: an address is wrong, the destination exists, options exclude each other, or
            images share a stem and `same_stem` is `error`.
        DatasetError: `output` is not an output of raycap, is unfinished, or is damaged.
        StorageError: a store refuses a request.
    """
    to = choose(ExportFormat, to, "to")
    exporter = EXPORTERS[to]
    given: dict[str, object] = {"columns": columns, "suffix": suffix, "naming": naming}
    given |= {"layout": layout, "shards": shards, "images": images, "license": license}
    _check_options(to, exporter, given | {"push": push, "public": public or None})
    if public and push is None:
        raise ConfigError("--public is for --push: give the repository to create", setting="public")
    tars_like = None if shards is None else choose(Shards, shards, "shards")
    choice = _allowed(to, exporter, choose(Existing, existing, "existing"))
    stems = choose(SameStem, same_stem, "same_stem")
    named = None if naming is None else choose(Naming, naming, "naming")
    laid_out = None if layout is None else choose(Layout, layout, "layout")
    source = open_finished(
        str(output),
        storage or StorageConfig(),
        drops_gone=choose(Gone, gone, "gone") is Gone.DROP,
        prompt=prompt,
        edits=choose(EditsMode, edits, "edits"),
    )
    table = None if join is None else str(join)
    with selected(source, where=where, columns=columns, join=table, on=on) as rows:
        job = ExportJob(
            rows=rows,
            destination=str(destination),
            existing=choice,
            same_stem=stems,
            suffix=suffix,
            naming=named,
            layout=laid_out,
            shards=tars_like,
            hub=HubOptions(
                images=choose(HubImages, images or HubImages.EMBED, "images"),
                prompt=prompt,
                license=license,
                push=push,
                public=public,
            ),
        )
        counts = exporter.write(job)
        reviewed = _describe_reviews(rows)
    return replace(
        counts,
        num_gone_skipped=source.num_dropped,
        num_left_out=rows.num_left_out,
        notes=(*counts.notes, *_describe_join(rows), *reviewed),
    )


def _describe_reviews(rows: Selection) -> list[str]:
    """Say which of the exported captions a reviewer would not expect there."""
    output = rows.output
    marks = [name for name in (REVIEW, STALE) if name in output.marks]
    if output.edits is not EditsMode.APPLY or len(marks) < 2:  # a field of the run has the name
        return []
    num_rejected = num_stale = 0
    for page in rows.pages(marks):
        num_rejected += pc.sum(pc.equal(page[REVIEW], Review.REJECTED)).as_py() or 0
        num_stale += pc.sum(page[STALE]).as_py() or 0
    notes = []
    if num_rejected:
        notes.append(
            f"rejected: reviewers have rejected {num_rejected:,} of the exported captions; "
            "leave them out with --where \"review is distinct from 'rejected'\""
        )
    if num_stale:
        notes.append(
            "stale: reviews that do not count, because the image or its caption has changed since: "
            f"{num_stale:,}; look at them again in raycap review (state: stale)"
        )
    return notes


def _describe_join(rows: Selection) -> tuple[str, ...]:
    joined = rows.joined
    if joined is None:
        return ()
    notes = [
        f"joined: the table has no row for {joined.num_images_without:,} images, and there are no "
        f"images for {joined.num_rows_without:,} of its rows"
    ]
    if joined.renamed:
        names = ", ".join(f"{old} as {new}" for old, new in joined.renamed.items())
        notes.append(f"joined: columns whose names the output has too are renamed: {names}")
    return tuple(notes)


def _check_options(to: ExportFormat, exporter: Exporter, options: Mapping[str, object]) -> None:
    """Raise ConfigError if an option is given that the format does not have."""
    for name, value in options.items():
        if value is not None and name not in exporter.options:
            others = ", ".join(
                format for format in ExportFormat if name in EXPORTERS[format].options
            )
            raise ConfigError(
                f"--{name} is not for --to {to}, but for {others}: leave it out", setting=name
            )


def _allowed(to: ExportFormat, exporter: Exporter, existing: Existing) -> Existing:
    if existing not in exporter.existing:
        allowed = ", ".join(choice for choice in Existing if choice in exporter.existing)
        raise ConfigError(
            f"--existing {existing} is not for --to {to}; choose one of: {allowed}",
            setting="existing",
        )
    return existing
