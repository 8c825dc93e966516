"""The interface of decoders of models trained from scratch, and their state during decoding.

A decoder reads tokens in pieces of any length and keeps a state between them. Tokens read all at
once, as in training, and one by one, as in decoding, give the same logits.
"""

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# B = images, N = cells of the grid, D = the encoder's channels
# R = rows: images times unfinished captions of each, those of an image adjacent
# T = tokens read at once, V = vocabulary

Tensors = tuple[Tensor, ...]


class Decoder(nn.Module):
    """A grid and tokens in, logits out."""

    @abstractmethod
    def look(self, grid: Float[Tensor, "b n d"]) -> Tensors:
        """Compute what every token needs of the images: tensors of B."""

    @abstractmethod
    def start(self, memory: Tensors) -> Tensors:
        """Return the state before the first token: tensors of B."""

    @abstractmethod
    def read(
        self, tokens: Int[Tensor, "r t"], memory: Tensors, state: Tensors
    ) -> tuple[Float[Tensor, "r t v"], Tensors]:
        """Read further tokens of every row.

        Args:
            tokens: R is a multiple of B.
            memory: From `look`.
            state: From `start` or the previous call: tensors of R.

        Returns:
            Logits of the token that follows each token, and the state after the last.
        """

    def forward(
        self, grid: Float[Tensor, "b n d"], inputs: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t v"]:
        """Predict the token that follows each position."""
        memory = self.look(grid)
        return self.read(inputs, memory, self.start(memory))[0]


def remember(network: nn.LSTM | nn.LSTMCell) -> None:
    """Set the bias of an LSTM's forget gates to 1, so that it initially keeps its state.

    Source: Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures",
    section 2.2.
    """
    for name, values in network.named_parameters():
        if name.startswith("bias_ih"):
            width = len(values) // 4
            with torch.no_grad():
                values[width : 2 * width] = 1.0


class ReadingState:
    """A batch of images in a decoder; a `DecodingState`."""

    def __init__(self, decoder: Decoder, grid: Float[Tensor, "b n d"]) -> None:
        self._decoder = decoder
        self._memory = decoder.look(grid)
        self._state = decoder.start(self._memory)
        self._num_rows = 1

    def feed(self, tokens: Int[Tensor, "r t"]) -> Float[Tensor, "r v"]:
        """Read the next tokens of every row; return the logits of the following token."""
        logits, self._state = self._decoder.read(tokens, self._memory, self._state)
        return logits[:, -1]

    def widen(self, num_rows: int) -> None:
        """Replace the row of every image by that many copies."""
        self._num_rows = num_rows
        self._state = tuple(part.repeat_interleave(num_rows, 0) for part in self._state)

    def reorder(self, rows: Int[Tensor, " r"]) -> None:
        """Continue row i from the tokens that row `rows[i]`, of the same image, has read."""
        self._state = tuple(part[rows] for part in self._state)

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Drop all images except these."""
        first = images[:, None] * self._num_rows
        rows = (first + torch.arange(self._num_rows, device=images.device)).flatten()
        self._memory = tuple(part[images] for part in self._memory)
        self.reorder(rows)
