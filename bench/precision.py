"""bf16, int8 and compiling on a CPU, compared with plain fp32 in speed and in quality.

Speed: BLIP-base at 384 pixels with random weights and 20 forced tokens. In every round each variant
captions the same pixels, one right after the other. The table shows the medians of the seconds per
image and of the ratios per round. Quality: the demo model on rendered scenes that it was not
trained on. The table shows the shares of captions that equal those of fp32 word for word and that
are exactly right, and CIDEr-D against generated reference captions.

    python -m bench.precision [--batches 8] [--beams 1 3] [--rounds 3] [--scenes 1000] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from bench.blip import NUM_TOKENS, SIDE_PX, seconds
from bench.samples import write_blip_base
from raycap.config import GenerationConfig, ModelConfig
from raycap.demo.scenes import Scene, is_exactly_right, render, scene, short_captions
from raycap.models.blip.captioner import BlipCaptioner
from raycap.models.sources import DEMO_FOLDER
from raycap.schema import CIDER_D
from raycap.training.epochs import Answer, score

WAYS: dict[str, dict[str, object]] = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8"},
    "compiled": {"precision": "fp32", "compile": True},
}
"""Model settings of each variant."""
BAR = 1.6
"""Target ratio of int8 over fp32, greedy."""
SEED = 9000


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of one variant at one batch size and number of beams."""

    way: str
    batch_size: int
    num_beams: int
    seconds_per_image: float
    ratio: float
    """Time of fp32 over its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The quality of one variant with the demo model."""

    way: str
    same_as_fp32: float
    exactly_right: float
    cider_d: float


def load(folder: Path, way: str, generation: GenerationConfig) -> BlipCaptioner:
    """Load a model with the settings of a variant."""
    model = ModelConfig.model_validate(WAYS[way])
    return BlipCaptioner.from_pretrained(folder, model, generation)


def speeds(folder: Path, batch_size: int, num_beams: int, rounds: int) -> list[Speed]:
    """Measure all variants, taking turns."""
    generation = GenerationConfig(
        num_beams=num_beams, min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS
    )
    captioners = {name: load(folder, name, generation) for name in WAYS}
    shape = (batch_size, SIDE_PX, SIDE_PX, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name in WAYS if number % 2 else reversed(list(WAYS)):
            captioner = captioners[name]
            took = seconds(lambda captioner=captioner: captioner.caption(pixels))  # type: ignore[misc]
            if number:  # the first round warms up
                times[name].append(took / batch_size)
    return [
        Speed(
            way=name,
            batch_size=batch_size,
            num_beams=num_beams,
            seconds_per_image=statistics.median(times[name]),
            ratio=statistics.median(
                theirs / mine for theirs, mine in zip(times["fp32"], times[name], strict=True)
            ),
        )
        for name in WAYS
    ]


def qualities(num_scenes: int) -> list[Quality]:
    """Caption rendered scenes with the demo model in all variants."""
    scenes = [scene(SEED, number) for number in range(num_scenes)]
    found = {name: _captions(name, scenes) for name in WAYS}
    return [
        Quality(
            way=name,
            same_as_fp32=_share(
                one == other for one, other in zip(texts, found["fp32"], strict=True)
            ),
            exactly_right=_share(
                is_exactly_right(text, it) for text, it in zip(texts, scenes, strict=True)
            ),
            cider_d=_cider(texts, scenes),
        )
        for name, texts in found.items()
    ]


def _captions(way: str, scenes: list[Scene]) -> list[str]:
    captioner = load(DEMO_FOLDER, way, GenerationConfig())
    side = (captioner.target.width_px, captioner.target.height_px)
    texts: list[str] = []
    for start in range(0, len(scenes), 32):
        images = [render(it).resize(side) for it in scenes[start : start + 32]]
        pixels: UInt8[np.ndarray, "b h w 3"] = np.stack([np.asarray(image) for image in images])
        texts += [caption.text for caption in captioner.caption(pixels)]
    return texts


def _share(hits: Iterable[bool]) -> float:
    return statistics.mean(hits)


def _cider(texts: list[str], scenes: list[Scene]) -> float:
    answers = [
        Answer(image_id=str(number), caption=text, references=short_captions(it))
        for number, (text, it) in enumerate(zip(texts, scenes, strict=True))
    ]
    return score(answers)[CIDER_D]


def main() -> None:
    """Measure speed and quality, and print both tables and their JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    rows: list[Speed] = []
    print("variant    batch  beams  s/image  fp32 over it")
    with tempfile.TemporaryDirectory(prefix="raycap-bench-") as name:
        folder = Path(name)
        write_blip_base(folder)
        for batch_size in given.batches:
            for num_beams in given.beams:
                for row in speeds(folder, batch_size, num_beams, given.rounds):
                    rows.append(row)
                    print(
                        f"{row.way:<9}  {row.batch_size:>5}  {row.num_beams:>5}"
                        f"  {row.seconds_per_image:>7.3f}  {row.ratio:>12.2f}",
                        flush=True,
                    )
    print(f"target: {BAR} for int8 with one beam")
    found = qualities(given.scenes)
    print("variant    same as fp32  exactly right  CIDEr-D")
    for quality in found:
        print(
            f"{quality.way:<9}  {quality.same_as_fp32:>12.1%}"
            f"  {quality.exactly_right:>13.1%}  {quality.cider_d:>7.3f}"
        )
    result = {
        "threads": torch.get_num_threads(),
        "speed": [asdict(row) for row in rows],
        "quality": [asdict(quality) for quality in found],
    }
    print(json.dumps(result))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
