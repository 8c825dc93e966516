"""CNN-LSTM: an LSTM that reads the image as its first word.

Source: Vinyals et al. 2015, arXiv:1411.4555, eq. 10-12. The image is read once, as the average of
the encoder's grid. Depth and dropout (Zaremba et al. 2014, arXiv:1409.2329: on the inputs of layers
and the output of the last, not between tokens) are settings.

Difference, and its reason: each channel of the average is first normalised by its mean and variance
over the training images so far. Most of an encoder's output is equal for all images, and an LSTM
that reads it once treats it as a constant: on rendered scenes the loss stayed for hundreds of steps
at its value without an image.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from raycap.config import ArchitectureConfig
from raycap.models.scratch.decoders import Decoder, Tensors, remember

# B = images, N = cells of the grid, D = the encoder's channels, L = layers, W = width
# R = rows, T = tokens read, V = size of the vocabulary

_LEAST_SHARE = 0.01
_EPSILON = 1e-5


class CnnLstmDecoder(Decoder):
    """An LSTM over the image and the tokens."""

    def __init__(
        self, architecture: ArchitectureConfig, num_channels: int, num_tokens: int
    ) -> None:
        super().__init__()
        width, depth = architecture.width, architecture.num_layers
        self.scale = ChannelScale(num_channels)
        self.see = nn.Linear(num_channels, width)
        self.words = nn.Embedding(num_tokens, width)
        self.lstm = nn.LSTM(
            width,
            width,
            depth,
            batch_first=True,
            dropout=architecture.dropout if depth > 1 else 0.0,
        )
        remember(self.lstm)
        self.drop = nn.Dropout(architecture.dropout)
        self.say = nn.Linear(width, num_tokens)

    def look(self, grid: Float[Tensor, "b n d"]) -> Tensors:
        """Average the grid."""
        return (self.see(self.scale(grid.mean(1))),)

    def start(self, memory: Tensors) -> Tensors:
        """Read the image as the first word."""
        _, state = self.lstm(self.drop(memory[0][:, None]))
        return _rows_first(state)

    def read(
        self, tokens: Int[Tensor, "r t"], memory: Tensors, state: Tensors
    ) -> tuple[Float[Tensor, "r t v"], Tensors]:
        """Read further tokens."""
        del memory
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        outputs, after = self.lstm(self.drop(self.words(tokens)), (hidden, cell))
        return self.say(self.drop(outputs)), _rows_first(after)


class ChannelScale(nn.Module):
    """Normalises channels by the statistics of all training images so far.

    It works like batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) in evaluation mode,
    also during training: an image does not depend on the rest of its batch, which may be of one.
    """

    mean: Tensor
    variance: Tensor
    num_batches: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("variance", torch.ones(num_channels))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, values: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Normalise; in training, after adding this batch to the statistics."""
        if self.training:
            self._count(values.detach().to(self.mean.dtype))
        scaled: Tensor = (values - self.mean) * (self.variance + _EPSILON).rsqrt()
        return scaled.to(values.dtype)

    def _count(self, values: Float[Tensor, "b d"]) -> None:
        # A plain mean at first; later old batches fade, because the encoder may be training.
        self.num_batches += 1
        share = self.num_batches.to(values.dtype).reciprocal().clamp(min=_LEAST_SHARE)
        self.mean.lerp_(values.mean(0), share)
        self.variance.lerp_((values - self.mean).square().mean(0), share)


def _rows_first(state: tuple[Float[Tensor, "l r w"], Float[Tensor, "l r w"]]) -> Tensors:
    hidden, cell = state
    return hidden.transpose(0, 1), cell.transpose(0, 1)
