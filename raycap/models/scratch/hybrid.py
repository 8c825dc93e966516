"""CNN-LSTM with attention: an LSTM that attends to the grid of the image at every token.

Source: Xu et al. 2015, arXiv:1502.03044: the deterministic ("soft") attention of section 4.2, with
the gate of section 4.2.1, the initial states of section 3.1.2 and the deep output layer of eq. 7.
Differences, and their reasons:

- the doubly stochastic regularisation (eq. 14) is left out: it adds to the loss, and losses of the
  kinds could not be compared;
- the grid is projected once to the width of the decoder, so that all encoders cost the same per
  token;
- layers may be stacked; the last one attends.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from raycap.config import ArchitectureConfig
from raycap.models.scratch.decoders import Decoder, Tensors, remember

# B = images, N = cells of the grid, D = the encoder's channels, L = layers, W = width
# R = rows, those of an image adjacent, T = tokens, V = vocabulary


class HybridDecoder(Decoder):
    """An LSTM over tokens and attended cells."""

    def __init__(
        self, architecture: ArchitectureConfig, num_channels: int, num_tokens: int
    ) -> None:
        super().__init__()
        width, depth = architecture.width, architecture.num_layers
        self.depth = depth
        self.see = nn.Linear(num_channels, width)
        self.first_states = nn.Linear(width, 2 * depth * width)
        self.words = nn.Embedding(num_tokens, width)
        self.attend_grid = nn.Linear(width, width)
        self.attend_state = nn.Linear(width, width, bias=False)
        self.attend = nn.Linear(width, 1, bias=False)
        self.gate = nn.Linear(width, 1)
        self.cells = nn.ModuleList(
            nn.LSTMCell(width if layer else 2 * width, width) for layer in range(depth)
        )
        for cell in self.cells:
            assert isinstance(cell, nn.LSTMCell)
            remember(cell)
        self.say_state = nn.Linear(width, width)
        self.say_seen = nn.Linear(width, width, bias=False)
        self.say = nn.Linear(width, num_tokens)
        self.drop = nn.Dropout(architecture.dropout)

    def look(self, grid: Float[Tensor, "b n d"]) -> Tensors:
        """Project the grid to the values and keys of the attention."""
        seen = self.see(grid)
        return seen, self.attend_grid(seen)

    def start(self, memory: Tensors) -> Tensors:
        """Compute the initial states from the mean of the grid."""
        mean = memory[0].mean(1)
        states = torch.tanh(self.first_states(mean)).view(len(mean), 2, self.depth, -1)
        return states[:, 0], states[:, 1]

    def read(
        self, tokens: Int[Tensor, "r t"], memory: Tensors, state: Tensors
    ) -> tuple[Float[Tensor, "r t v"], Tensors]:
        """Read further tokens."""
        logits, _, after = self.read_with_weights(tokens, memory, state)
        return logits, after

    def read_with_weights(
        self, tokens: Int[Tensor, "r t"], memory: Tensors, state: Tensors
    ) -> tuple[Float[Tensor, "r t v"], Float[Tensor, "r t n"], Tensors]:
        """Read further tokens, and return the attention of each.

        Returns:
            Logits, attention weights that sum to 1 over the cells, and the new state.
        """
        words = self.drop(self.words(tokens))
        hidden, cell = state[0].unbind(1), state[1].unbind(1)
        outputs, contexts, weights = [], [], []
        for word in words.unbind(1):
            weight, context = self._attend(memory, hidden[-1])
            hidden, cell = self._advance(torch.cat([word, context], -1), hidden, cell)
            outputs.append(hidden[-1])
            contexts.append(context)
            weights.append(weight)
        said = words + self.say_state(self.drop(torch.stack(outputs, 1)))
        logits = self.say(self.drop(said + self.say_seen(torch.stack(contexts, 1))))
        return logits, torch.stack(weights, 1), (torch.stack(hidden, 1), torch.stack(cell, 1))

    def _attend(
        self, memory: Tensors, hidden: Float[Tensor, "r w"]
    ) -> tuple[Float[Tensor, "r n"], Float[Tensor, "r w"]]:
        """Compute attention weights from the state, and the weighted mean of the grid."""
        seen, keys = memory
        num_images, _, width = seen.shape
        asked = self.attend_state(hidden).view(num_images, -1, 1, width)
        scores = self.attend(torch.tanh(keys[:, None] + asked))[..., 0]
        weights = scores.softmax(-1)
        context = (weights.to(seen.dtype) @ seen).flatten(0, 1)
        return weights.flatten(0, 1), torch.sigmoid(self.gate(hidden)) * context

    def _advance(
        self, values: Float[Tensor, "r i"], hidden: Tensors, cell: Tensors
    ) -> tuple[Tensors, Tensors]:
        """Advance all layers by one token."""
        states = []
        for layer, (step, *before) in enumerate(zip(self.cells, hidden, cell, strict=True)):
            states.append(step(self.drop(values) if layer else values, tuple(before)))
            values = states[-1][0]
        after_hidden, after_cell = zip(*states, strict=True)
        return after_hidden, after_cell
