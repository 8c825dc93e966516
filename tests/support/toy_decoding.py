"""A toy model whose every prefix has random logits of its own: it can be searched exhaustively."""

import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

END = 0
Prefix = tuple[int, ...]


@dataclass
class ToyState:
    """A decoding state of plain lists, which checks how it is called."""

    num_words: int
    images: range
    flat: tuple[float, ...] | None = None
    """The logits of every prefix, where they are not to be random."""
    rows: list[tuple[int, Prefix]] = field(init=False)
    """Image and what was read, row by row."""
    num_fed: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.rows = [(image, ()) for image in self.images]

    def feed(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == len(self.rows)
        self.num_fed.append(len(tokens))
        pairs = zip(self.rows, tokens.tolist(), strict=True)
        self.rows = [(image, (*read, *new)) for (image, read), new in pairs]
        return torch.stack([self.logits(image, read) for image, read in self.rows])

    def widen(self, num_rows: int) -> None:
        assert [image for image, _ in self.rows] == list(self.images)
        self.rows = [row for row in self.rows for _ in range(num_rows)]

    def reorder(self, rows: Tensor) -> None:
        moved = [self.rows[row] for row in rows.tolist()]
        assert [image for image, _ in moved] == [image for image, _ in self.rows]
        self.rows = moved

    def keep(self, images: Tensor) -> None:
        places = images.tolist()
        assert all(at in (place, *range(len(places), 99)) for place, at in enumerate(places))
        width = len(self.rows) // len({image for image, _ in self.rows})
        self.rows = [row for at in places for row in self.rows[at * width : (at + 1) * width]]

    def logits(self, image: int, read: Prefix) -> Tensor:
        if self.flat is not None:
            return torch.tensor(self.flat)
        rng = np.random.default_rng([image, *read])
        return torch.tensor(rng.normal(0.0, 1.5, self.num_words), dtype=torch.float32)

    def step_logprobs(self, image: int, start: Prefix, tokens: Prefix) -> list[float]:
        """Log-probability of each token of a caption, by the definition."""
        return [
            self.logits(image, (*start, *tokens[:at])).log_softmax(0)[token].item()
            for at, token in enumerate(tokens)
        ]

    def all_captions(self, longest: int) -> list[Prefix]:
        """Every caption there is: ended, or of the greatest length."""
        words = [token for token in range(self.num_words) if token != END]
        ended = [
            (*body, END)
            for length in range(longest)
            for body in itertools.product(words, repeat=length)
        ]
        return [*ended, *itertools.product(words, repeat=longest)]
