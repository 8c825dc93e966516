"""The demonstration: render scenes, add broken files, caption them all, check every answer."""

import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from raycap import schema
from raycap.bulk.parts import CAPTIONS, list_parts, read_part
from raycap.bulk.record import Summary
from raycap.bulk.run import caption
from raycap.bulk.verify import Verification, verify
from raycap.config import CaptionConfig, EngineConfig, ModelConfig, StorageConfig
from raycap.demo.scenes import is_exactly_right, write_scenes
from raycap.errors import ConfigError
from raycap.status import OnProgress
from raycap.storage.stores import open_store

NUM_SCENES = 300
_SEED = 2026
_NUM_SAMPLES = 6
_IMAGES = "images"
_CAPTIONS = "captions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image of the demonstration, with what the model said of it."""

    image_id: str
    caption: str
    is_right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration came to."""

    images: Path
    captions: Path
    summary: Summary
    verification: Verification
    num_right: int
    """Captions that say nothing wrong of their scene, in a sentence the model was taught."""
    samples: list[Sample] = field(default_factory=list)


def run_demo(
    folder: Path, *, on_progress: OnProgress | None = None, debug: bool = False
) -> DemoResult:
    """Render a few hundred scenes into a folder, caption them with the demo model, and check.

    A folder that holds the demonstration already is rendered and captioned anew.

    Raises:
        ConfigError: the folder holds something else.
    """
    images, captions = folder / _IMAGES, folder / _CAPTIONS
    _clear(folder)
    scenes = dict(write_scenes(images, NUM_SCENES, _SEED))
    _write_broken_files(images)
    config = CaptionConfig(
        model=ModelConfig(name="demo"), engine=EngineConfig(part_size=100, batch_size=32)
    )
    summary = caption(images, captions, config=config, on_progress=on_progress, debug=debug)
    rows = _ok_rows(captions)
    right = {name: is_exactly_right(text, scenes[name]) for name, text in rows.items()}
    return DemoResult(
        images=images,
        captions=captions,
        summary=summary,
        verification=verify(captions),
        num_right=sum(right.values()),
        samples=_samples(rows, right),
    )


def _clear(folder: Path) -> None:
    """Remove an earlier demonstration, and nothing else."""
    ours = {folder / _IMAGES, folder / _CAPTIONS}
    if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - ours):
        raise ConfigError(f"{folder}: holds other files; name a new or empty folder")
    for path in ours:
        shutil.rmtree(path, ignore_errors=True)


def _write_broken_files(images: Path) -> None:
    """Add what every real image set has: files that are not, or no longer, images."""
    whole = next(path for path in sorted(images.iterdir()) if path.suffix == ".jpg").read_bytes()
    broken = {
        "empty.jpg": b"",
        "error-page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "huge.png": _png_header(60_000, 60_000),
        "truncated.jpg": whole[: len(whole) // 2],
    }
    for name, data in broken.items():
        (images / name).write_bytes(data)


def _png_header(width_px: int, height_px: int) -> bytes:
    """Write the start of a PNG that claims to be huge: a decompression bomb, defused."""
    size = width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big")
    body = b"IHDR" + size + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(body) + _png_chunk(b"IDAT")


def _png_chunk(body: bytes) -> bytes:
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def _ok_rows(captions: Path) -> dict[str, str]:
    """Read the captions, by image id."""
    store = open_store(str(captions), StorageConfig())
    rows: dict[str, str] = {}
    for number in sorted(list_parts(store, CAPTIONS)):
        table = read_part(store, CAPTIONS, number)
        ok = table.filter(pc.equal(table[schema.STATUS], schema.STATUS_OK))
        rows.update(
            zip(ok[schema.IMAGE_ID].to_pylist(), ok[schema.CAPTION].to_pylist(), strict=True)
        )
    return rows


def _samples(rows: dict[str, str], right: dict[str, bool]) -> list[Sample]:
    """Choose a few images spread over the set, a wrong one among them if there is any."""
    names = sorted(rows)
    chosen = names[:: max(1, len(names) // _NUM_SAMPLES)][:_NUM_SAMPLES]
    wrong = [name for name in names if not right[name]]
    if wrong and all(right[name] for name in chosen):
        chosen[-1] = wrong[0]
    return [Sample(image_id=n, caption=rows[n], is_right=right[n]) for n in chosen]
