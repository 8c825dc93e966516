"""The demonstration: every command of raycap on rendered scenes, with known true captions.

A small pretrained BLIP writes captions of 7 to 8 words; the reference captions have 17 to 18. Its
captions are compared with the references, it is fine-tuned on them, and compared again. As in real
sets of images, some files are not images, or are damaged.
"""

import json
import shutil
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from raycap.captioning.run import caption
from raycap.captioning.verify import verify
from raycap.cluster.start import ray_cluster
from raycap.config import (
    CaptionConfig,
    EngineConfig,
    EvaluateConfig,
    ExternalMetricsConfig,
    GenerationConfig,
    LoopConfig,
    ModelConfig,
    PrepareConfig,
    PrepareEngineConfig,
    TrainConfig,
    ValidationConfig,
)
from raycap.datasets.prepare import prepare
from raycap.demo.outcome import (
    RECORD,
    REPORT,
    DemoResult,
    choose_samples,
    figures_of,
    mean_words,
    ok_rows,
    write_record,
)
from raycap.demo.scenes import Scene, long_captions, write_scenes
from raycap.errors import ConfigError
from raycap.evaluation.evaluate import evaluate
from raycap.progress import OnProgress
from raycap.reporting.report import report
from raycap.results.captioning import Summary
from raycap.results.evaluation import Evaluation
from raycap.results.training import OnTrainingProgress, Training
from raycap.training.run import train


def write_broken_files(folder: Path) -> int:
    """Add one file of each kind of damage to a folder of JPEGs; return their number."""
    whole = next(path for path in sorted(folder.iterdir()) if path.suffix == ".jpg").read_bytes()
    broken = {
        "empty.jpg": b"",
        "error-page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "huge.png": _png_header(60_000, 60_000),
        "truncated.jpg": whole[: len(whole) // 2],
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    return len(broken)


def _png_header(width_px: int, height_px: int) -> bytes:
    """Return the start of a PNG with a huge size in its header, but without pixels."""
    size = width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big")
    body = b"IHDR" + size + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(body) + _png_chunk(b"IDAT")


def _png_chunk(body: bytes) -> bytes:
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


NUM_TEST = 300
NUM_TRAIN = 1_500
NUM_VALIDATION = 100
_SEED = 2026
_TEST_IMAGES = "images/test"
_OTHER_IMAGES = "images/train"
_PARTS = ("images", "captions.jsonl", "dataset", "before", "training", "after", "evaluation")

_TRAINING = TrainConfig(
    kind="blip",
    init="demo",
    train=LoopConfig(lr=2e-3, batch_size=32, num_epochs=3),
    validation=ValidationConfig(num_images=NUM_VALIDATION),
    generation=GenerationConfig(num_beams=1, max_new_tokens=30),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Callbacks for the progress of each stage."""

    work: Callable[[str], AbstractContextManager[OnProgress]]
    """Opens a stage with this name, and yields the callback for its progress."""
    training: Callable[[str], AbstractContextManager[OnTrainingProgress]]
    """The same for training."""


def run_demo(folder: Path, stages: Stages, *, debug: bool = False) -> DemoResult:
    """Render, caption, fine-tune, caption again, evaluate and report, in a folder.

    An earlier demonstration in the folder is overwritten.

    Raises:
        ConfigError: the folder contains other files.
    """
    started = time.monotonic()
    _clear(folder)
    with ray_cluster(debug=debug):
        story = _Story(folder, stages, debug=debug)
        scenes = story.render()
        before = story.caption("before", "demo", "captioning with the pretrained model")
        verification = verify(folder / "before")
        story.prepare()
        training = story.train()
        model = str(folder / "training" / "model")
        after = story.caption("after", model, "captioning with the fine-tuned model")
        evaluation = story.evaluate()
    with stages.work("writing the report"):
        paths = [folder / name for name in ("evaluation", "training", "before", "dataset")]
        report(paths, folder / REPORT)
    captions = [ok_rows(folder / name) for name in ("before", "after")]
    figures = [
        figures_of(system, summary, rows, scenes)
        for system, summary, rows in zip(evaluation.systems, (before, after), captions, strict=True)
    ]
    result = DemoResult(
        folder=folder,
        summary=before,
        verification=verification,
        training=training,
        evaluation=evaluation,
        before=figures[0],
        after=figures[1],
        reference_words=mean_words(scenes),
        seconds=round(time.monotonic() - started, 1),
        samples=choose_samples(captions[0], captions[1], scenes),
    )
    write_record(result)
    return result


class _Story:
    """The stages, each of which calls the public API."""

    def __init__(self, folder: Path, stages: Stages, *, debug: bool) -> None:
        self._folder = folder
        self._stages = stages
        self._debug = debug

    def render(self) -> dict[str, Scene]:
        """Render all scenes and add broken files to the test images; return the test scenes."""
        test, others = self._folder / _TEST_IMAGES, self._folder / _OTHER_IMAGES
        with self._stages.work("rendering scenes"):
            scenes = dict(write_scenes(test, NUM_TEST, _SEED))
            learned = write_scenes(others, NUM_TRAIN + NUM_VALIDATION, _SEED + 1)
            write_broken_files(test)
        rows = [_annotation(_TEST_IMAGES, name, scene, "test") for name, scene in scenes.items()]
        for at, (name, scene) in enumerate(learned):
            split = "train" if at < NUM_TRAIN else "validation"
            rows.append(_annotation(_OTHER_IMAGES, name, scene, split))
        lines = [json.dumps(row) for row in rows]
        (self._folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return scenes

    def caption(self, name: str, model: str, stage: str) -> Summary:
        """Caption the test scenes, including the broken files."""
        config = CaptionConfig(
            model=ModelConfig(name=model),
            generation=_TRAINING.generation,
            engine=EngineConfig(part_size=100, batch_size=32),
        )
        with self._stages.work(stage) as on_progress:
            return caption(
                self._folder / _TEST_IMAGES,
                self._folder / name,
                config=config,
                on_progress=on_progress,
                debug=self._debug,
            )

    def prepare(self) -> None:
        """Prepare a caption dataset from the scenes and their long captions."""
        with self._stages.work("preparing the caption dataset") as on_progress:
            prepare(
                self._folder / "captions.jsonl",
                self._folder / "dataset",
                config=PrepareConfig(engine=PrepareEngineConfig(part_size=500)),
                on_progress=on_progress,
                debug=self._debug,
            )

    def train(self) -> Training:
        """Fine-tune the pretrained model on the long captions."""
        with self._stages.training("fine-tuning on people's captions") as on_progress:
            return train(
                self._folder / "dataset",
                self._folder / "training",
                config=_TRAINING,
                on_progress=on_progress,
                debug=self._debug,
            )

    def evaluate(self) -> Evaluation:
        """Compare the captions of both models with the references."""
        with self._stages.work("evaluating both") as on_progress:
            return evaluate(
                [f"{name}={self._folder / name}" for name in ("before", "after")],
                self._folder / "dataset",
                output=self._folder / "evaluation",
                split="test",
                # Starting Java takes longer than all other metrics together.
                config=EvaluateConfig(external=ExternalMetricsConfig(meteor=False)),
                on_progress=on_progress,
                debug=self._debug,
            )


def _annotation(folder: str, name: str, scene: Scene, split: str) -> dict[str, object]:
    return {"file_name": f"{folder}/{name}", "captions": long_captions(scene), "split": split}


def _clear(folder: Path) -> None:
    """Remove an earlier demonstration, and nothing else."""
    ours = {folder / name for name in (*_PARTS, REPORT, RECORD)}
    if folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - ours):
        raise ConfigError(
            f"{folder}: contains other files; give a new or empty folder", uri=str(folder)
        )
    for path in ours:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
