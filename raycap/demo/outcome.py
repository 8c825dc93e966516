"""Results of the demonstration: figures and samples of both models, and `demo.json`."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from raycap import schema
from raycap.captioning.parts import CAPTIONS, read_part
from raycap.config import StorageConfig
from raycap.demo.scenes import Scene, attributes_right, long_captions
from raycap.results.captioning import Summary, Verification
from raycap.results.evaluation import Evaluation, System
from raycap.results.training import Training
from raycap.storage.parts import list_parts
from raycap.storage.stores import open_store

RECORD = "demo.json"
REPORT = "report.html"
_NUM_SAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Quality of one model's captions of the test scenes."""

    mean_words: float
    cider: float
    """CIDEr-D."""
    bleu_4: float
    attributes_right: float
    """Correct share of the attributes mentioned (shape, colour, size, place, background)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One scene and its captions."""

    image_id: str
    before: str
    after: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """Result of the demonstration."""

    folder: Path
    summary: Summary
    """Of captioning with the pretrained model, including the broken files."""
    verification: Verification
    training: Training
    evaluation: Evaluation
    before: Figures
    after: Figures
    reference_words: float
    """Mean number of words of the reference captions."""
    seconds: float
    samples: list[Sample] = field(default_factory=list)

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / REPORT


def ok_rows(captions: Path) -> dict[str, str]:
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


def figures_of(
    system: System, summary: Summary, rows: dict[str, str], scenes: dict[str, Scene]
) -> Figures:
    """Return the quality of one model's captions.

    Args:
        system: From the evaluation.
        summary: Of captioning.
        rows: Captions by image id.
        scenes: The scenes in the images.
    """
    values = {metric.name: metric.value for metric in system.metrics if metric.value is not None}
    counts = [attributes_right(text, scenes[name]) for name, text in rows.items()]
    named = sum(count for _, count in counts)
    return Figures(
        mean_words=summary.mean_words,
        cider=values[schema.CIDER_D],
        bleu_4=values[schema.BLEU[3]],
        attributes_right=sum(right for right, _ in counts) / max(1, named),
    )


def mean_words(scenes: dict[str, Scene]) -> float:
    """Compute the mean length of the long captions of scenes, in words."""
    texts = [text for scene in scenes.values() for text in long_captions(scene)]
    return sum(len(text.split()) for text in texts) / len(texts)


def choose_samples(
    before: dict[str, str], after: dict[str, str], scenes: dict[str, Scene]
) -> list[Sample]:
    """Choose a few scenes at equal distances in the set."""
    names = sorted(set(before) & set(after))
    chosen = names[:: max(1, len(names) // _NUM_SAMPLES)][:_NUM_SAMPLES]
    return [
        Sample(
            image_id=name,
            before=before[name],
            after=after[name],
            reference=long_captions(scenes[name])[0],
        )
        for name in chosen
    ]


def write_record(result: DemoResult) -> None:
    """Write `demo.json`."""
    record = {
        "before": asdict(result.before),
        "after": asdict(result.after),
        "references": {"mean_words": round(result.reference_words, 2)},
        "seconds": result.seconds,
    }
    text = json.dumps(record, indent=2) + "\n"
    (result.folder / RECORD).write_text(text, encoding="utf-8")
