"""CLIPScore of many images: read and decode ahead, score in batches, here or on the cluster.

An image that cannot be read has no score and a code that says why; it never ends an evaluation.

CLIPScore of an evaluation's systems: where the images are, and the scores as columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from raycap.config import EvaluateConfig, ImageConfig, StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.references import References
from raycap.errors import ErrorCode, ImageError, ObjectNotFound, TransientError
from raycap.evaluation.chunks import IS_SCORED, column
from raycap.evaluation.workers import RESTARTS, spread
from raycap.images.decoding import Target, decode, prepare_process
from raycap.models.base import ModelSource
from raycap.models.clip_source import clip_folder, find_clip
from raycap.models.device import use_threads
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
"""The scores of one image. Null where there is no caption, and where the image cannot be read:
then `error_code` says why."""

MAX_ASPECT = 100
"""Images longer than this many times their width are not scored: resized to the width that a CLIP
wants, one would fill the memory, and its centre shows next to nothing of it."""

_BATCH_IMAGES = 32
_THREADS = 8
_PROBE = Target(width_px=1, height_px=1, resample="nearest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """What every worker needs to know."""

    model: ModelSource
    """As `find_clip` found it."""
    images: ReadImages
    """Where the image files come from."""
    image: ImageConfig
    """What is accepted as an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UriImages:
    """Reads images by the addresses in `uri`."""

    storage: StorageConfig
    max_bytes: int
    """Larger files are cut there, and refused when they are decoded."""

    def __call__(self, rows: pa.Table) -> list[bytes | ImageError]:
        """Read the files of some rows at a time.

        Raises:
            StorageError: no image of that store can be read.
        """
        return list(ordered_map(self._read, rows[schema.URI].to_pylist(), _THREADS))

    def _read(self, uri: str | None) -> bytes | ImageError:
        if uri is None:
            return ImageError(ErrorCode.NOT_FOUND, "the references name no address of this image")
        try:
            return _reader(self.storage).read(uri, self.max_bytes)
        except ObjectNotFound as error:
            return ImageError(ErrorCode.NOT_FOUND, str(error))
        except TransientError as error:
            return ImageError(error.code, error.message)


def clip_scores(tables: Iterable[pa.Table], spec: ClipSpec) -> Iterator[pa.Table]:
    """Score in this process: yield a CLIP_SCORES table for each table, row for row.

    Args:
        tables: `image_id`, `uri` (or what `spec.images` reads by), `caption` and `references`.
        spec: The model, and where images come from.

    Raises:
        ModelError: the model cannot be loaded or run.
        StorageError: no image can be read.
    """
    worker = ClipWorker(spec)
    for table in tables:
        yield worker.score(table)


def spread_clip_scores(tables: Iterable[pa.Table], spec: ClipSpec) -> Iterator[pa.Table]:
    """Score as `clip_scores`, in order, by one actor a GPU, or one a node where there are none.

    Ray must be connected (see `raycap.cluster.start.ray_cluster`).

    Raises:
        ModelError: the model cannot be loaded or run.
        RunStopped: its workers died again and again.
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
    """Scores tables with one CLIP, which it loads when it is first needed."""

    def __init__(self, spec: ClipSpec, num_threads: int | None = None) -> None:
        """Prepare the process.

        Args:
            spec: The model, and where images come from.
            num_threads: CPU threads for the model; None leaves them as they are.
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
            # Twice, as only then is the size known upright; a JPEG's first time is the short one.
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
    """Score those rows whose image was read; say of the others why not."""
    read = [at for at, image in enumerate(images) if not isinstance(image, ImageError)]
    chosen = rows.take(pa.array(read, pa.int64()))
    captions = chosen[schema.CAPTION].to_pylist()
    references = [written or [] for written in chosen[schema.REFERENCE_CAPTIONS].to_pylist()]
    pixels = [image for image in images if not isinstance(image, ImageError)]
    columns: list[dict[str, Any]] = [
        {schema.ERROR_CODE: str(image.code)} if isinstance(image, ImageError) else {}
        for image in images
    ]
    clip, ref_clip = scorer.score(pixels, captions, references)
    for at, score, ref_score in zip(read, clip.tolist(), ref_clip.tolist(), strict=True):
        columns[at] = {
            schema.CLIP_SCORE: score,
            schema.REF_CLIP_SCORE: None if ref_score != ref_score else ref_score,
        }
    return columns


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
    # Ray gives a worker as many threads as the CPUs it reserved: one.
    num_threads = None if num_gpus else psutil.cpu_count(logical=False)
    return [actor.remote(spec, num_threads) for _ in range(num_gpus or num_nodes)]


@lru_cache(maxsize=4)
def _reader(config: StorageConfig) -> ImageReader:
    """Keep connections open from batch to batch of a process."""
    return ImageReader(config)


ClipColumns = dict[str, Float64[np.ndarray, " images"]]
"""`clip_score` and `ref_clip_score` of scored images, in order; NaN where there is none."""

_NAMES = (schema.CLIP_SCORE, schema.REF_CLIP_SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedImages:
    """Reads the images that a caption dataset holds, by their ids."""

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
        gone = ImageError(ErrorCode.NOT_FOUND, "the dataset does not hold this image")
        return [found.get(image_id, gone) for image_id in ids]


def clip_spec(config: EvaluateConfig, references: References) -> ClipSpec | None:
    """Say which CLIP scores, and where it finds the images; None where none is asked for.

    Raises:
        ModelError: it cannot be found.
    """
    name = config.external.clip_model
    if name is None:
        return None
    return ClipSpec(model=find_clip(name), images=_images(config, references), image=ImageConfig())


def clip_columns(
    spec: ClipSpec, chunks: Sequence[Iterable[pa.Table]], *, is_spread: bool
) -> list[ClipColumns]:
    """Score every system, one after the other, by the same workers.

    Args:
        spec: as `clip_spec` gave it.
        chunks: of each system, a pass over what `chunks.read_chunks` yields.
        is_spread: by actors of Ray, which must be connected.

    Raises:
        RaycapError: as `clip.clip_scores` and `clip.spread_clip_scores`.
    """
    score = spread_clip_scores if is_spread else clip_scores
    tables = chain.from_iterable(_tables(of, system) for system, of in enumerate(chunks))
    whole = pa.concat_tables(score(tables, spec))
    scores = {
        name: np.asarray(whole[name].to_numpy(zero_copy_only=False), np.float64) for name in _NAMES
    }
    # Every system has a row for every scored image.
    by_system = {name: values.reshape(len(chunks), -1) for name, values in scores.items()}
    return [
        {name: values[system] for name, values in by_system.items()}
        for system in range(len(chunks))
    ]


def _tables(chunks: Iterable[pa.Table], system: int) -> Iterator[pa.Table]:
    for chunk in chunks:
        scored = chunk.filter(chunk[IS_SCORED])
        yield pa.table(
            {
                schema.IMAGE_ID: scored[schema.IMAGE_ID],
                schema.URI: scored[column(schema.URI, system)],
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
    """Keep the dataset's index from batch to batch of a process."""
    return open_dataset(uri, config)
