"""What every decoder of a captioner trained from scratch is, and how captions are searched with it.

A decoder reads tokens in pieces of any length, and keeps what it needs of those before: read
whole, as in training, or one by one, as in a search, they give the same logits.
"""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# B = images, N = cells of the grid, D = the encoder's channels
# R = rows: images times captions in the making of each, those of an image side by side
# T = tokens read at once, V = tokens that there are

Tensors = tuple[Tensor, ...]


class Decoder(nn.Module):
    """A grid and tokens in, logits out."""

    @abstractmethod
    def look(self, grid: Float[Tensor, "b n d"]) -> Tensors:
        """Prepare what is read of the images at every token: tensors of B."""

    @abstractmethod
    def start(self, memory: Tensors) -> Tensors:
        """Give the state before the first token: tensors of B."""

    @abstractmethod
    def read(
        self, tokens: Int[Tensor, "r t"], memory: Tensors, state: Tensors
    ) -> tuple[Float[Tensor, "r t v"], Tensors]:
        """Read further tokens of every row.

        Args:
            tokens: R is a multiple of B.
            memory: Of `look`.
            state: Of `start` or of the tokens before: tensors of R.

        Returns:
            Logits of the token that follows each, and the state after the last.
        """

    def forward(
        self, grid: Float[Tensor, "b n d"], inputs: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t v"]:
        """Predict the token that follows each position."""
        memory = self.look(grid)
        return self.read(inputs, memory, self.start(memory))[0]


def remember(network: nn.LSTM | nn.LSTMCell) -> None:
    """Let an LSTM begin by keeping what it has seen: forget gates with a bias of 1.

    Source: Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures",
    section 2.2.
    """
    for name, values in network.named_parameters():
        if name.startswith("bias_ih"):
            width = len(values) // 4
            with torch.no_grad():
                values[width : 2 * width] = 1.0


class ReadingState:
    """A batch of images being captioned by a decoder; a `DecodingState`."""

    def __init__(self, decoder: Decoder, grid: Float[Tensor, "b n d"]) -> None:
        self._decoder = decoder
        self._memory = decoder.look(grid)
        self._state = decoder.start(self._memory)
        self._num_rows = 1

    def feed(self, tokens: Int[Tensor, "r t"]) -> Float[Tensor, "r v"]:
        """Read the next tokens of every row; give the logits of the one that follows."""
        logits, self._state = self._decoder.read(tokens, self._memory, self._state)
        return logits[:, -1]

    def widen(self, num_rows: int) -> None:
        """Give every image that many rows in place of one."""
        self._num_rows = num_rows
        self._state = tuple(part.repeat_interleave(num_rows, 0) for part in self._state)

    def reorder(self, rows: Int[Tensor, " r"]) -> None:
        """Let row i go on from what row `rows[i]`, of the same image, has read."""
        self._state = tuple(part[rows] for part in self._state)

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Drop all images but these."""
        first = images[:, None] * self._num_rows
        rows = (first + torch.arange(self._num_rows, device=images.device)).flatten()
        self._memory = tuple(part[images] for part in self._memory)
        self.reorder(rows)
