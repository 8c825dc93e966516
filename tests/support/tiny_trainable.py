"""A very small captioner to train: a convolution over the image starts a GRU over words."""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raycap.config import GenerationConfig, TrainConfig
from raycap.images.decoding import Target
from raycap.models.base import Caption
from raycap.models.trainable import IGNORED, TokenBatch

SIDE_PX = 16
PAD, START, END = 0, 1, 2
WIDTH = 24
MAX_TOKENS = 12


class TinyNetwork(nn.Module):
    """Uint8 pixels and tokens in, logits out."""

    def __init__(self, num_words: int, dropout: float) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.words = nn.Embedding(num_words, WIDTH)
        self.think = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.say = nn.Linear(WIDTH, num_words)
        self.unused = nn.Parameter(torch.zeros(3, 3))  # as real models have some
        self.delay_s = 0.0
        self.most_images: int | None = None

    def forward(
        self,
        pixels: UInt8[Tensor, "b 3 h w"],
        inputs: Int[Tensor, "b t"],
        mask: Int[Tensor, "b t"],
    ) -> Float[Tensor, "b t v"]:
        del mask
        time.sleep(self.delay_s)
        if self.most_images is not None and len(pixels) > self.most_images:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        values = pixels.float()
        # Not finite for an image that is white all over.
        brightness = values / (255 - values.mean(dim=(1, 2, 3), keepdim=True))
        seen = self.norm(self.see(brightness)).mean(dim=(2, 3))
        states, _ = self.think(self.words(inputs), seen[None].contiguous())
        logits: Tensor = self.say(self.drop(states))
        return logits


class TinyCaptioner:
    """Greedy."""

    def __init__(self, model: "TinyTrainable") -> None:
        self._model = model

    @property
    def target(self) -> Target:
        return self._model.target

    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        network = self._model.network.eval()
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        tokens = torch.full((len(pixels), 1), START)
        with torch.inference_mode():
            for _ in range(MAX_TOKENS):
                logits = network(images, tokens, torch.ones_like(tokens))
                tokens = torch.cat([tokens, logits[:, -1:].argmax(dim=-1)], dim=1)
        return [Caption(text=self._model.decode(row[1:].tolist()), logprob=0.0) for row in tokens]

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class TinyTrainable:
    """The network with its words."""

    kind = "cnn-lstm"

    def __init__(self, words: list[str], dropout: float) -> None:
        self._words = words
        self._ids = {word: number for number, word in enumerate(words)}
        self._network = TinyNetwork(len(words), dropout)
        self._dropout = dropout

    @property
    def target(self) -> Target:
        return Target(width_px=SIDE_PX, height_px=SIDE_PX)

    @property
    def network(self) -> TinyNetwork:
        return self._network

    def encode(self, captions: Sequence[str]) -> TokenBatch:
        rows = [
            [self._ids.get(word, END) for word in text.split()][: MAX_TOKENS - 1]
            for text in captions
        ]
        length = max(map(len, rows)) + 1
        inputs = torch.full((len(rows), length), PAD)
        mask = torch.zeros_like(inputs)
        targets = torch.full_like(inputs, IGNORED)
        for number, row in enumerate(rows):
            inputs[number, : len(row) + 1] = torch.tensor([START, *row])
            mask[number, : len(row) + 1] = 1
            targets[number, : len(row) + 1] = torch.tensor([*row, END])
        return TokenBatch(inputs=inputs, mask=mask, targets=targets)

    def decode(self, tokens: Sequence[int]) -> str:
        words = []
        for token in tokens:
            if token == END:
                break
            words.append(self._words[token])
        return " ".join(words)

    def captioner(self, generation: GenerationConfig) -> TinyCaptioner:
        del generation
        return TinyCaptioner(self)

    def save(self, folder: Path, generation: GenerationConfig, training: dict[str, Any]) -> None:
        del generation
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._network.state_dict(), folder / "model.safetensors")
        told = {"kind": self.kind, "words": self._words, "training": training}
        (folder / "raycap.json").write_text(json.dumps(told))


def build_tiny(config: TrainConfig, captions: Iterable[str]) -> TinyTrainable:
    """Build it with the words of the captions."""
    words = sorted({word for caption in captions for word in caption.split()})
    return TinyTrainable(["[pad]", "[start]", "[end]", *words], config.architecture.dropout)


def load_tiny(
    folder: Path, config: TrainConfig, *, delay_s: float = 0.0, most_images: int | None = None
) -> TinyTrainable:
    """Load it; slow, or as if there were little memory, where that is asked for."""
    told = json.loads((folder / "raycap.json").read_text())
    tiny = TinyTrainable(told["words"], config.architecture.dropout)
    tiny.network.load_state_dict(load_file(folder / "model.safetensors"))
    tiny.network.delay_s = delay_s
    tiny.network.most_images = most_images
    return tiny
