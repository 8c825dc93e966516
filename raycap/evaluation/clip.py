"""CLIPScore of an evaluation's systems, in this process or on the cluster.

Images are read and decoded while earlier ones are scored in batches. An image that cannot be read
has no score and an error code; it never ends an evaluation.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import ray
from jaxtyping import Float64, UInt8

from raycap import schema
from raycap.config import EvaluateConfig, ExternalMetricsConfig, ImageConfig, StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.references import References
from raycap.errors import UNREADABLE, ErrorCode, ImageError
from raycap.evaluation.matching import IS_SCORED, column
from raycap.evaluation.metric import Metric
from raycap.evaluation.workers import RESTARTS, spread
from raycap.images.decoding import Target, decode, prepare_process
from raycap.models.base import ModelSource
from raycap.models.clip_source import clip_folder, find_clip
from raycap.models.process import use_threads
from raycap.storage.parallel import ordered_map
from raycap.storage.stores import ImageReader

if TYPE_CHECKING:
    from raycap.models.clip import ClipScorer

ReadImages = Callable[[pa.Table], Sequence[bytes | ImageError]]
"""Reads the image files of a table's rows, in order, by `image_id` or `uri`. Must be picklable."""

CLIP_SCORES = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(schema.CLIP_SCORE, pa.float64()),
        pa.field(schema.REF_CLIP_SCORE, pa.float64()),
        pa.field(schema.ERROR_CODE, pa.string()),
    ]
)
"""The scores of one image; null if it has no caption, cannot be read or has changed. In the latter
cases, `error_code` gives the reason."""

CHANGED = "changed"
"""`error_code` of an image that is no longer the one that was captioned."""

MAX_ASPECT = 100
"""Images with a larger aspect ratio are not scored: resized to the width that CLIP needs, one would
fill the memory, and its centre shows almost nothing of it."""

_BATCH_IMAGES = 32
_THREADS = 8
_PROBE = Target(width_px=1, height_px=1, resample="nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """Settings of every worker."""

    model: ModelSource
    """Result of `find_clip`."""
    images: ReadImages
    """Source of the image files."""
    image: ImageConfig
    """Limits of accepted images."""


class ChangedImageError(ImageError):
    """An image that is no longer the one that was captioned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UriImages:
    """Reads images by the addresses in `uri`, if they are still the ones that were captioned."""

    storage: StorageConfig
    max_bytes: int
    """Larger files are truncated, and rejected by decoding."""

    def __call__(self, rows: pa.Table) -> list[bytes | ImageError]:
        """Read the files of some rows, in parallel.

        Raises:
            StorageError: no image of a store can be read.
        """
        named = zip(*(rows[name].to_pylist() for name in (schema.URI, schema.ETAG)), strict=True)
        return list(ordered_map(lambda image: self._read(*image), named, _THREADS))

    def _read(self, uri: str | None, etag: str | None) -> bytes | ImageError:
        if uri is None:
            return ImageError(ErrorCode.NOT_FOUND, "the references have no address of this image")
        reader = _reader(self.storage)
        try:
            data = reader.read(uri, self.max_bytes)
            if reader.is_version(uri, etag, data) is False:
                reason = f"{uri}: has changed since it was captioned"
                return ChangedImageError(ErrorCode.NOT_FOUND, reason)
            return data
        except UNREADABLE as error:
            return ImageError.of(error)


def clip_scores(tables: Iterable[pa.Table], spec: ClipSpec) -> Iterator[pa.Table]:
    """Yield a CLIP_SCORES table for each table, row for row, scored in this process.

    Args:
        tables: `image_id`, `uri` and `etag` (or what `spec.images` reads by), `caption` and
            `references`.
        spec: the model, and the source of images.

    Raises:
        ModelError: the model cannot be loaded or run.
        StorageError: no image can be read.
    """
    worker = ClipWorker(spec)
    for table in tables:
        yield worker.score(table)


def spread_clip_scores(tables: Iterable[pa.Table], spec: ClipSpec) -> Iterator[pa.Table]:
    """Score as `clip_scores`, in order, with one actor per GPU, or one per node without GPUs.

    Ray must be connected (see `raycap.cluster.start.ray_cluster`).

    Raises:
        ModelError: the model cannot be loaded or run.
        RunStopped: its workers died repeatedly.
        StorageError: no image can be read.
    """
    actors = _start_actors(spec)
    try:
        for _, scored in spread(actors, "score", tables):
            yield scored
    finally:
        for actor in actors:
            ray.kill(actor)


class ClipWorker:
    """A CLIP that scores tables; loaded when first needed."""

    def __init__(self, spec: ClipSpec, num_threads: int | None = None) -> None:
        """Prepare the process.

        Args:
            spec: the model, and the source of images.
            num_threads: CPU threads for the model; None: unchanged.
        """
        self._spec = spec
        self._loaded: ClipScorer | None = None
        prepare_process(spec.image)
        if num_threads is not None:
            use_threads(num_threads)

    def score(self, table: pa.Table) -> pa.Table:
        """Score a table as `clip_scores` does."""
        captioned = pc.indices_nonzero(pc.is_valid(table[schema.CAPTION])).to_pylist()
        rows: list[dict[str, Any]] = [{schema.IMAGE_ID: key} for key in _keys(table)]
        slices = [
            captioned[start : start + _BATCH_IMAGES]
            for start in range(0, len(captioned), _BATCH_IMAGES)
        ]
        scorer = self._scorer() if slices else None
        # The next batch is read and decoded while this one is scored.
        for batch, images in ordered_map(lambda at: (at, self._load(table.take(at))), slices, 1):
            assert scorer is not None
            for index, scores in zip(batch, _score(scorer, table.take(batch), images), strict=True):
                rows[index] |= scores
        return pa.Table.from_pylist(rows, schema=CLIP_SCORES)

    def _scorer(self) -> "ClipScorer":
        if self._loaded is None:
            # torch and transformers take seconds to import, and most evaluations need neither
            from raycap.models.clip import ClipScorer  # noqa: PLC0415

            self._loaded = ClipScorer.from_pretrained(clip_folder(self._spec.model))
        return self._loaded

    def _load(self, rows: pa.Table) -> list[UInt8[np.ndarray, "_ _ 3"] | ImageError]:
        return list(ordered_map(self._decode, self._spec.images(rows), _THREADS))

    def _decode(self, data: bytes | ImageError) -> UInt8[np.ndarray, "_ _ 3"] | ImageError:
        if isinstance(data, ImageError):
            return data
        try:
            # Decoded twice, to learn the upright size first; for JPEG, the first time is fast.
            probe = decode(data, _PROBE, self._spec.image)
            sides = sorted((probe.width_px, probe.height_px))
            if sides[1] > MAX_ASPECT * sides[0]:
                shape = f"{probe.width_px}x{probe.height_px}"
                return ImageError(ErrorCode.MODEL_REJECTED, f"{shape} pixels: too long for CLIP")
            target = self._scorer().target(probe.width_px, probe.height_px)
            return decode(data, target, self._spec.image).pixels
        except ImageError as error:
            return error


def _score(
    scorer: "ClipScorer",
    rows: pa.Table,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"] | ImageError],
) -> list[dict[str, Any]]:
    """Score the rows whose image was read, and give an error code for the others."""
    read = [at for at, image in enumerate(images) if not isinstance(image, ImageError)]
    chosen = rows.take(pa.array(read, pa.int64()))
    captions = chosen[schema.CAPTION].to_pylist()
    references = [written or [] for written in chosen[schema.REFERENCE_CAPTIONS].to_pylist()]
    pixels = [image for image in images if not isinstance(image, ImageError)]
    columns: list[dict[str, Any]] = [
        {schema.ERROR_CODE: _code(image)} if isinstance(image, ImageError) else {}
        for image in images
    ]
    clip, ref_clip = scorer.score(pixels, captions, references)
    for at, score, ref_score in zip(read, clip.tolist(), ref_clip.tolist(), strict=True):
        columns[at] = {
            schema.CLIP_SCORE: score,
            schema.REF_CLIP_SCORE: None if ref_score != ref_score else ref_score,
        }
    return columns


def _code(error: ImageError) -> str:
    return CHANGED if isinstance(error, ChangedImageError) else str(error.code)


def _keys(table: pa.Table) -> list[str]:
    keys: list[str] = table[schema.IMAGE_ID].to_pylist()
    return keys


def _start_actors(spec: ClipSpec) -> list[Any]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_gpus = int(resources.get("GPU", 0))
    num_nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
    if num_gpus:
        options["num_gpus"] = 1
    actor: Any = ray.remote(ClipWorker).options(
        max_restarts=RESTARTS, max_task_retries=RESTARTS, **options
    )
    # Ray gives a worker as many threads as reserved CPUs, which is one.
    num_threads = None if num_gpus else psutil.cpu_count(logical=False)
    return [actor.remote(spec, num_threads) for _ in range(num_gpus or num_nodes)]


@lru_cache(maxsize=4)
def _reader(config: StorageConfig) -> ImageReader:
    """Keep connections open between the batches of a process."""
    return ImageReader(config)


ClipColumns = dict[str, Float64[np.ndarray, " images"]]
"""`clip_score` and `ref_clip_score` of scored images, in order; NaN where there is none."""

_NAMES = (schema.CLIP_SCORE, schema.REF_CLIP_SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFound:
    """CLIPScores of a system."""

    columns: ClipColumns = field(default_factory=dict)
    """Empty without a CLIP."""
    unscored: Counter[str] = field(default_factory=Counter)
    """Captioned images without a score, by error code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedImages:
    """Reads the images in a caption dataset by their ids."""

    dataset: str
    storage: StorageConfig

    def __call__(self, rows: pa.Table) -> list[bytes | ImageError]:
        """Read the images of some rows.

        Raises:
            DatasetError: the dataset is damaged.
            StorageError: it cannot be read.
        """
        ids = rows[schema.IMAGE_ID].to_pylist()
        found = dict(_dataset(self.dataset, self.storage).images(ids))
        missing = ImageError(ErrorCode.NOT_FOUND, "the dataset does not contain this image")
        return [found.get(image_id, missing) for image_id in ids]


def clip_spec(config: EvaluateConfig, references: References) -> ClipSpec | None:
    """Return the CLIP to use and the source of images; None if no CLIP is configured.

    Raises:
        ModelError: the CLIP cannot be found.
    """
    name = config.external.clip_model
    if name is None:
        return None
    return ClipSpec(model=find_clip(name), images=_images(config, references), image=ImageConfig())


def clip_columns(
    spec: ClipSpec, chunks: Sequence[Iterable[pa.Table]], *, is_spread: bool
) -> list[ClipFound]:
    """Score all systems, one after another, with the same workers.

    Args:
        spec: result of `clip_spec`.
        chunks: for each system, an iteration of `matching.read_chunks`.
        is_spread: use Ray actors; Ray must be connected.

    Raises:
        RaycapError: as `clip_scores` and `spread_clip_scores`.
    """
    score = spread_clip_scores if is_spread else clip_scores
    tables = chain.from_iterable(_tables(of, system) for system, of in enumerate(chunks))
    whole = pa.concat_tables(score(tables, spec))
    scores = {
        name: np.asarray(whole[name].to_numpy(zero_copy_only=False), np.float64) for name in _NAMES
    }
    # Every system has a row for every scored image.
    num_images = len(whole) // len(chunks)
    found = []
    for start in range(0, len(whole), num_images):
        codes = whole[schema.ERROR_CODE].slice(start, num_images).drop_null().to_pylist()
        columns = {name: values[start : start + num_images] for name, values in scores.items()}
        found.append(ClipFound(columns=columns, unscored=Counter(codes)))
    return found


def _tables(chunks: Iterable[pa.Table], system: int) -> Iterator[pa.Table]:
    for chunk in chunks:
        scored = chunk.filter(chunk[IS_SCORED])
        yield pa.table(
            {
                schema.IMAGE_ID: scored[schema.IMAGE_ID],
                schema.URI: scored[column(schema.URI, system)],
                schema.ETAG: scored[column(schema.ETAG, system)],
                schema.CAPTION: scored[column(schema.CAPTION, system)],
                schema.REFERENCE_CAPTIONS: scored[schema.REFERENCE_CAPTIONS],
            }
        )


def _images(config: EvaluateConfig, references: References) -> ReadImages:
    if references.is_dataset:
        record = open_dataset(references.source, config.storage).record
        if record.config.get("embed", {}).get("enabled", True):
            return EmbeddedImages(dataset=references.source, storage=config.storage)
    return UriImages(storage=config.storage, max_bytes=ImageConfig().max_bytes)


@lru_cache(maxsize=2)
def _dataset(uri: str, config: StorageConfig) -> CaptionDataset:
    """Keep the dataset's index between the batches of a process."""
    return open_dataset(uri, config)


def _why_skipped(config: ExternalMetricsConfig) -> str | None:
    return None if config.clip_model else "no external.clip_model is named"


CLIP_SCORE = Metric(columns=(schema.CLIP_SCORE,), open=None, why_skipped=_why_skipped)
REF_CLIP_SCORE = Metric(columns=(schema.REF_CLIP_SCORE,), open=None, why_skipped=_why_skipped)
