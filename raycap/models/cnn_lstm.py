"""CNN-LSTM: the image is the first word of an LSTM that then writes.

Source: Vinyals et al. 2015, arXiv:1411.4555, eq. 10-12. The image is seen once, as the average of
the encoder's grid. Depth and dropout (Zaremba et al. 2014, arXiv:1409.2329: on what goes into a
layer and out of the last, not from token to token) are settings.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from raycap.config import ArchitectureConfig
from raycap.models.decoders import Decoder, Tensors, remember

# B = images, N = cells of the grid, D = the encoder's channels, L = layers, W = width
# R = rows, T = tokens, V = tokens that there are


class CnnLstmDecoder(Decoder):
    """An LSTM over the image and the tokens."""

    def __init__(
        self, architecture: ArchitectureConfig, num_channels: int, num_tokens: int
    ) -> None:
        super().__init__()
        width, depth = architecture.width, architecture.num_layers
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
        return (self.see(grid.mean(1)),)

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


def _rows_first(state: tuple[Float[Tensor, "l r w"], Float[Tensor, "l r w"]]) -> Tensors:
    hidden, cell = state
    return hidden.transpose(0, 1), cell.transpose(0, 1)
