"""CLIPScore of an evaluation's systems: where the images are, and the scores as columns."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from raycap import schema
from raycap.config import EvaluateConfig, ImageConfig, StorageConfig
from raycap.datasets.dataset import CaptionDataset, open_dataset
from raycap.datasets.references import References
from raycap.errors import ErrorCode, ImageError
from raycap.evaluation.chunks import IS_SCORED, column
from raycap.evaluation.clip import ClipSpec, ReadImages, UriImages, clip_scores, spread_clip_scores
from raycap.models.clip_source import find_clip

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
