"""The stub: a deterministic captioner without weights, for dry runs, tests and benchmarks."""

import hashlib
import math
import os
import signal
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from raycap.answers.typed import answer_type, dump
from raycap.config import GenerationConfig, ModelConfig
from raycap.images.decoding import Target
from raycap.images.grids import Grid, PatchGrid
from raycap.models.base import (
    BatchRange,
    Caption,
    Captioner,
    CaptionerKind,
    ModelSource,
    Questions,
)

_VERSION = "raycap stub 1"  # changed whenever the captions of the stub change
_TARGET = Target(width_px=64, height_px=64)
_GRID = 8  # it looks at every 8th pixel of every 8th row: enough for colour and light

_COLOURS = {
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (200, 40, 40),
    "orange": (230, 140, 40),
    "yellow": (230, 220, 60),
    "green": (50, 150, 60),
    "teal": (40, 150, 150),
    "blue": (50, 80, 200),
    "purple": (130, 60, 170),
    "pink": (230, 130, 180),
    "brown": (120, 80, 50),
}
_COLOUR_NAMES = list(_COLOURS)
_COLOUR_TABLE = np.array(list(_COLOURS.values()), dtype=np.int64)
_LIGHTS = ("a dark", "a dim", "a bright", "a brilliant")
_CONTRASTS = ("flat", "soft", "clear", "harsh")
_MAGENTA = (255, 0, 255)
_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aiou"


class StubKind(CaptionerKind):
    """The stub, which has no files."""

    name = "stub"
    has_files = False
    is_built_in = True
    takes_questions = True
    uses_gpus = False
    is_threadsafe = False

    def recognises(self, model_type: str) -> bool:  # noqa: ARG002
        """Whether a `model_type` means the stub: none does."""
        return False

    def built_in(self, name: str) -> ModelSource:
        """Return the only model of the kind."""
        return ModelSource(
            kind=self.name,
            name=name,
            revision=None,
            folder=None,
            digest=hashlib.sha256(_VERSION.encode()).hexdigest(),
            target=_TARGET,
        )

    def check(self, folder: Path) -> Target:  # noqa: ARG002
        """Return the size of the input images."""
        return _TARGET

    def load(
        self,
        folder: Path | None,  # noqa: ARG002
        model: ModelConfig,
        generation: GenerationConfig,
    ) -> Captioner:
        """Make the captioner."""
        return StubCaptioner(model, generation)

    def grid(self, source: ModelSource, max_pixels: int) -> Grid | None:  # noqa: ARG002
        """Return any sizes within the budget."""
        return PatchGrid(max_pixels=max_pixels)

    def check_typed(self, model: ModelConfig) -> None:
        """Accept any type."""

    def batch_range(self, model: ModelConfig, *, on_accelerator: bool) -> BatchRange:  # noqa: ARG002
        """Return one size: the speed of the stub does not depend on it."""
        return BatchRange.fixed(64)


class StubCaptioner:
    """Describes the colour, light and contrast of an image, plus a word derived from its pixels.

    Of the generation settings it uses `prompt` and `num_captions`. To a prompt with a type it
    answers with a value of that type.
    """

    def __init__(self, model: ModelConfig, generation: GenerationConfig) -> None:
        self._latency_s = model.stub_latency_s
        self._fault = model.stub_fault
        self._start = f"{generation.prompt.strip()} ".lstrip()
        self._num_captions = generation.num_captions

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return _TARGET

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch; takes `stub_latency_s`, regardless of its size."""
        if self._latency_s:
            time.sleep(self._latency_s)
        if not len(pixels):
            return []
        is_faulty = _is_magenta(pixels) & (self._fault is not None)
        if is_faulty.any():
            self._fail()
        sample = pixels[:, ::_GRID, ::_GRID].reshape(len(pixels), -1, 3)
        looks = zip(_colours(sample), *_light_and_contrast(sample), strict=True)
        return [
            self._one(
                f"{light} {colour} image with {contrast} edges",
                zlib.crc32(image),
                first_logprob=math.nan if is_nan else -1.0,
            )
            for (colour, light, contrast), image, is_nan in zip(
                looks, np.ascontiguousarray(pixels), is_faulty, strict=True
            )
        ]

    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        """Start each answer with its question, instead of with `prompt`; or make up a value."""
        captions = self.caption(pixels)
        return [
            [
                self._prompted(caption, question.text)
                if question.json_schema is None
                else _of_type(caption, question.json_schema)
                for question in asked
            ]
            for caption, asked in zip(captions, questions, strict=True)
        ]

    def _prompted(self, caption: Caption, prompt: str) -> Caption:
        text = f"{prompt.strip()} {caption.text.removeprefix(self._start)}".lstrip()
        others = tuple(self._prompted(one, prompt) for one in caption.alternatives)
        return replace(caption, text=text, alternatives=others)

    def _fail(self) -> None:
        if self._fault == "raise":
            raise ValueError("an image is pure magenta in the middle")
        if self._fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while self._fault == "hang":
            time.sleep(1)

    def _one(self, look: str, number: int, first_logprob: float) -> Caption:
        first = first_logprob - number / 2**32
        best, *rest = (
            Caption(
                text=f"{self._start}{look}, called {_word((number + rank) % 2**32)}",
                logprob=first * (rank + 1),
            )
            for rank in range(self._num_captions)
        )
        return best if not rest else replace(best, alternatives=tuple(rest))


def _of_type(caption: Caption, json_schema: str) -> Caption:
    """Return an answer that is a value of a type, derived from a caption."""
    schema = answer_type(json_schema).json_schema
    value = _value(schema, caption.text, zlib.crc32(caption.text.encode()))
    return replace(caption, text=dump(value), alternatives=())


def _value(schema: dict[str, Any], text: str, number: int) -> Any:
    """Return a value of a schema; patterns and multiples are not heeded."""
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    if kind == "object":
        properties = enumerate(schema["properties"].items())
        return {name: _value(inner, text, number + place) for place, (name, inner) in properties}
    if kind == "array":
        count = min(max(1, schema.get("minItems", 0)), schema.get("maxItems", number))
        return [_value(schema["items"], text, number + place) for place in range(count)]
    if kind == "string":
        return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")
    if kind == "boolean":
        return number % 2 == 0
    return min(max(number % 10, schema.get("minimum", 0)), schema.get("maximum", number))


def _is_magenta(pixels: UInt8[np.ndarray, "b h w 3"]) -> Bool[np.ndarray, " b"]:
    _, height, width, _ = pixels.shape
    found: Bool[np.ndarray, " b"] = (pixels[:, height // 2, width // 2] == _MAGENTA).all(axis=1)
    return found


def _colours(sample: UInt8[np.ndarray, "b n 3"]) -> list[str]:
    """Return the palette colour nearest to the mean of each image."""
    mean = sample.sum(axis=1, dtype=np.int64) // sample.shape[1]
    distance = ((mean[:, None] - _COLOUR_TABLE) ** 2).sum(axis=2)
    return [_COLOUR_NAMES[index] for index in distance.argmin(axis=1)]


def _light_and_contrast(sample: UInt8[np.ndarray, "b n 3"]) -> tuple[list[str], list[str]]:
    grey: Int64[np.ndarray, "b n"] = sample.sum(axis=2, dtype=np.int64)  # 0 to 765
    light = grey.mean(axis=1).astype(np.int64) // 192
    contrast = (grey.max(axis=1) - grey.min(axis=1)) // 192
    return [_LIGHTS[index] for index in light], [_CONTRASTS[index] for index in contrast]


def _word(number: int) -> str:
    """Spell 32 bits as a pronounceable word, such as "lusab-babad".

    Source: Wilkerson 2009, "A proposal for proquints", arXiv:0901.4016.
    """
    halves = (number >> 16, number & 0xFFFF)
    return "-".join(
        _CONSONANTS[half >> 12]
        + _VOWELS[half >> 10 & 3]
        + _CONSONANTS[half >> 6 & 15]
        + _VOWELS[half >> 4 & 3]
        + _CONSONANTS[half & 15]
        for half in halves
    )
