"""What every drill holds a run against: the rows of an undisturbed one, made without Ray."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from raycap.captioning.verify import verify
from raycap.config import GenerationConfig, ImageConfig, ModelConfig
from raycap.errors import ImageError
from raycap.images.decoding import decode
from raycap.models.stub import StubCaptioner

PART_SIZE = 10
SETTINGS = (
    *("--model", "stub"),
    *("--set", f"engine.part_size={PART_SIZE}"),
    *("--set", "engine.batch_size=10"),
)
SLOW = ("--set", "model.stub_latency_s=0.25")


def caption_of(data: bytes) -> str | None:
    """The caption of an image file; None where it has none."""
    stub = StubCaptioner(ModelConfig(name="stub"), GenerationConfig())
    try:
        image = decode(data, stub.target, ImageConfig())
    except ImageError:
        return None
    return stub.caption(image.pixels[None])[0].text


def captions_of(folder: Path) -> dict[str, str | None]:
    """The captions of a folder's files, by their names."""
    return {path.name: caption_of(path.read_bytes()) for path in sorted(folder.iterdir())}


def magenta() -> bytes:
    """An image that `model.stub_fault` strikes at."""
    sink = io.BytesIO()
    Image.new("RGB", (40, 40), (255, 0, 255)).save(sink, "PNG")
    return sink.getvalue()


def told(rows: list[dict[str, Any]]) -> dict[str, str | None]:
    """Captions by image; every image must have one row, in order."""
    names = [row["image_id"] for row in rows]
    assert names == sorted(set(names))
    return {row["image_id"]: row["caption"] for row in rows}


def check_verified(output: object) -> None:
    """Verify an output, in which nothing may be wrong and nothing missing."""
    found = verify(str(output))
    assert found.is_complete, found


def check_one_line(err: str, message: str) -> None:
    """Make sure that an error is told in one line, without a traceback."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
