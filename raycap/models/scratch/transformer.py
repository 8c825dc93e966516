"""Transformer: attention to the tokens so far and to the encoder's grid.

Source: Vaswani et al. 2017, arXiv:1706.03762, the decoder: section 3.2 (attention), 3.3 (feed
forward), 3.4 (shared input and output embeddings), 3.5 (sinusoidal positions). Differences, and
their reasons:

- norms come before the sublayers (Xiong et al. 2020, arXiv:2002.04745), which trains stably at any
  depth and with a short warm-up;
- cells of the grid have learned positions, because their vectors do not contain them.
"""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from raycap.config import ArchitectureConfig
from raycap.models.scratch.decoders import Decoder, Tensors
from raycap.models.scratch.encoders import grid_side

# B = images, N = cells of the grid, D = the encoder's channels, L = layers, W = width
# H = heads, K = width of a head, R = rows, those of an image adjacent
# T = tokens, P = tokens read before, V = vocabulary

_GROWTH = 4
"""Width of the hidden layer of the feed-forward network, as a multiple of the decoder's width."""


class TransformerDecoder(Decoder):
    """A Transformer decoder that attends to tokens and grid."""

    def __init__(
        self, architecture: ArchitectureConfig, num_channels: int, num_tokens: int
    ) -> None:
        super().__init__()
        width, num_cells = architecture.width, grid_side(architecture) ** 2
        self.num_heads = architecture.num_heads
        self.see = nn.Linear(num_channels, width)
        self.cells = nn.Parameter(torch.randn(num_cells, width) * 0.02)
        self.see_norm = nn.LayerNorm(width)
        self.words = nn.Embedding(num_tokens, width)
        # Embeddings are small, so that initial logits are about 1; inputs are scaled up.
        nn.init.normal_(self.words.weight, std=width**-0.5)
        self.layers = nn.ModuleList(
            _Layer(width, self.num_heads, architecture.dropout)
            for _ in range(architecture.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(architecture.dropout)

    def look(self, grid: Float[Tensor, "b n d"]) -> Tensors:
        """Compute keys and values of the grid, for all layers: `[B, L, 2, H, N, K]`."""
        seen = self.see_norm(self.see(grid) + self.cells)
        return (torch.stack([cast(_Layer, layer).look(seen) for layer in self.layers], 1),)

    def start(self, memory: Tensors) -> Tensors:
        """Return keys and values of no token: `[B, L, 2, H, 0, K]`."""
        return (memory[0][..., :0, :],)

    def read(
        self, tokens: Int[Tensor, "r t"], memory: Tensors, state: Tensors
    ) -> tuple[Float[Tensor, "r t v"], Tensors]:
        """Read further tokens."""
        num_read = state[0].shape[-2]
        width = self.words.weight.shape[1]
        values = self.words(tokens) * math.sqrt(width)
        positions = sinusoids(num_read, tokens.shape[1], width, tokens.device)
        values = self.drop(values + positions.to(values.dtype))
        kept = []
        for number, layer in enumerate(self.layers):
            values, own = layer(values, memory[0][:, number], state[0][:, number])
            kept.append(own)
        logits = functional.linear(self.norm(values), self.words.weight)
        return logits, (torch.stack(kept, 1),)


class _Layer(nn.Module):
    """Attention to tokens, attention to the grid, and a feed-forward network."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.own_norm, self.grid_norm, self.feed_norm = (nn.LayerNorm(width) for _ in range(3))
        self.own = nn.Linear(width, 3 * width)
        self.own_out = nn.Linear(width, width)
        self.grid_query = nn.Linear(width, width)
        self.grid = nn.Linear(width, 2 * width)
        self.grid_out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, _GROWTH * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(_GROWTH * width, width),
        )
        self.drop = nn.Dropout(dropout)

    def look(self, seen: Float[Tensor, "b n w"]) -> Float[Tensor, "b 2 h n k"]:
        """Compute keys and values of the grid."""
        keys, values = self.grid(seen).chunk(2, -1)
        return torch.stack([self._heads(keys), self._heads(values)], 1)

    def forward(
        self,
        values: Float[Tensor, "r t w"],
        grid: Float[Tensor, "b 2 h n k"],
        read: Float[Tensor, "r 2 h p k"],
    ) -> tuple[Float[Tensor, "r t w"], Float[Tensor, "r 2 h q k"]]:
        """Apply the layer; also return keys and values of all tokens read."""
        query, *new = self.own(self.own_norm(values)).chunk(3, -1)
        kept = torch.cat([read, torch.stack([self._heads(part) for part in new], 1)], -2)
        attended = self._attend_own(self._heads(query), kept)
        values = values + self.drop(self.own_out(attended))
        seen = self._attend_grid(self._heads(self.grid_query(self.grid_norm(values))), grid)
        values = values + self.drop(self.grid_out(seen))
        return values + self.drop(self.feed(self.feed_norm(values))), kept

    def _heads(self, values: Float[Tensor, "r t w"]) -> Float[Tensor, "r h t k"]:
        return values.view(*values.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _attend_own(
        self, query: Float[Tensor, "r h t k"], kept: Float[Tensor, "r 2 h q k"]
    ) -> Float[Tensor, "r t w"]:
        """Attend to all tokens up to and including each token."""
        num_new, num_all = query.shape[-2], kept.shape[-2]
        mask = None
        if 1 < num_new < num_all:
            whole = torch.ones(num_new, num_all, dtype=torch.bool, device=query.device)
            mask = whole.tril(num_all - num_new)
        attended = functional.scaled_dot_product_attention(
            query,
            kept[:, 0],
            kept[:, 1],
            attn_mask=mask,
            is_causal=num_new == num_all and num_new > 1,
        )
        return attended.transpose(1, 2).flatten(2)

    def _attend_grid(
        self, query: Float[Tensor, "r h t k"], grid: Float[Tensor, "b 2 h n k"]
    ) -> Float[Tensor, "r t w"]:
        """Attend to the whole grid, with the rows of an image as queries of one attention."""
        num_images, (_, num_heads, num_tokens, size) = len(grid), query.shape
        rows = (num_images, -1, num_heads, num_tokens, size)
        together = query.reshape(rows).transpose(1, 2).flatten(2, 3)
        attended = functional.scaled_dot_product_attention(together, grid[:, 0], grid[:, 1])
        apart = attended.reshape(num_images, num_heads, -1, num_tokens, size).permute(0, 2, 3, 1, 4)
        return apart.flatten(0, 1).flatten(2)


def sinusoids(
    first: int, count: int, width: int, device: torch.device
) -> Float[Tensor, "{count} {width}"]:
    """Return sinusoidal encodings of positions from `first` on; section 3.5."""
    places = torch.arange(first, first + count, dtype=torch.float32, device=device)
    halves = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    angles = places[:, None] * torch.exp(halves * (-math.log(10_000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
