"""BLIP's decoding in tensors that keep their shapes and addresses, so that it can be compiled.

The same numbers as `blip_decoding`, up to rounding. What differs, and why:

- the position is a number on the device, and attention covers the whole length with what is not yet
  written masked: the same arithmetic at every step;
- nothing moves when an image is done: rows keep their places, and a list says which place each row
  that is left has. The rows of what is done, or was never there, are computed and thrown away;
- rows change their beams within the step itself, in which a copy costs no launch;
- memory is kept from batch to batch: CUDA graphs read and write at the addresses they were recorded
  with.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from raycap.models.blip_decoding import LayerMemory, LayerState, predict, project

# B = places for images, H = heads, S = patches and class token, D = size of a head, R = rows an
# image at most, N = B * R places for rows, T = tokens, K = images left, M = rows left


class StaticLayer(LayerState):
    """A layer of the decoder over memory that stays where it is."""

    def step(
        self,
        hidden: Float[Tensor, "n 1 d"],
        position: Int[Tensor, "1"],
        origins: Int[Tensor, " n"] | None,
    ) -> Float[Tensor, "n 1 d"]:
        """Apply the layer to the token at a position of every row.

        Args:
            hidden: Of the tokens.
            position: The same for all rows.
            origins: The rows that rows go on from; None: all from themselves.
        """
        attention, memory = self._layer.attention.self, self.memory
        self._write(memory.keys, attention.key, hidden, position, origins)
        self._write(memory.values, attention.value, hidden, position, origins)
        places = torch.arange(memory.keys.shape[2], device=position.device)
        attended = functional.scaled_dot_product_attention(
            project(attention.query, hidden, self._head_size),
            memory.keys,
            memory.values,
            attn_mask=(places <= position)[None, None, None],
        )
        attended = attended.transpose(1, 2).flatten(2)
        return self.finish(hidden, attended, len(memory.image_keys))

    def begin(self, images: Float[Tensor, "k s d"]) -> None:
        """Take in the keys and values of a batch of images, and forget what was read."""
        cross, memory = self._layer.crossattention.self, self.memory
        size = self._head_size
        memory.image_keys[: len(images)] = project(cross.key, images, size)
        memory.image_values[: len(images)] = project(cross.value, images, size)
        # What is masked counts nothing, but nothing times NaN, of a batch that broke, is NaN.
        memory.keys.zero_()
        memory.values.zero_()

    def first_rows(self, num_images: int) -> LayerState:
        """Give the layer over each image's first row alone, to read the start with."""
        memory, num_places = self.memory, len(self.memory.image_keys)
        keys, values = (
            kept.view(num_places, -1, *kept.shape[1:])[:num_images, 0]
            for kept in (memory.keys, memory.values)
        )
        return LayerState(
            self._layer, LayerMemory(memory.image_keys, memory.image_values, keys, values)
        )

    def spread(self, num_read: int) -> None:
        """Copy what each image's first row has read to its other rows."""
        for kept in (self.memory.keys, self.memory.values):
            of_images = kept.view(len(self.memory.image_keys), -1, *kept.shape[1:])
            of_images[:, 1:, :, :num_read] = of_images[:, :1, :, :num_read]

    def _write(
        self,
        kept: Float[Tensor, "n h t e"],
        linear: Any,
        hidden: Float[Tensor, "n 1 d"],
        position: Int[Tensor, "1"],
        origins: Int[Tensor, " n"] | None,
    ) -> None:
        if origins is not None:
            kept.copy_(kept.index_select(0, origins))
        kept.index_copy_(2, position, project(linear, hidden, self._head_size))


class Workspace:
    """Memory for batches of one shape, one after the other."""

    def __init__(self, decoder: Any, num_images: int, num_rows: int, num_tokens: int) -> None:
        """Set it aside.

        Args:
            decoder: A `BlipTextLMHeadModel` in evaluation mode.
            num_images: Images, at most.
            num_rows: Rows an image, at most.
            num_tokens: Tokens that a row reads, at most.
        """
        self.num_rows = num_rows
        self._shape = (num_images, num_tokens)
        self._decoder = decoder
        device = decoder.device
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.row_places = torch.arange(num_images * num_rows, device=device)
        self.layers: list[StaticLayer] = []
        _keep_address(self.position)

    def begin(self, images: Float[Tensor, "k s d"]) -> None:
        """Take in a batch of images."""
        if not self.layers:
            self._set_aside(images.shape[1])
        for layer in self.layers:
            layer.begin(images)
        self.position.zero_()

    def start(self, tokens: Int[Tensor, "k t"]) -> Float[Tensor, "k v"]:
        """Read all that captions start with, one row an image."""
        hidden = self._decoder.bert.embeddings(input_ids=tokens)
        for layer in self.layers:
            hidden = layer.first_rows(len(tokens)).advance(hidden, len(tokens), 0)
        self.position.fill_(tokens.shape[1])
        return predict(self._decoder, hidden)

    def spread(self, num_read: int) -> None:
        """Copy each image's first row to its others."""
        for layer in self.layers:
            layer.spread(num_read)

    def _set_aside(self, num_patches: int) -> None:
        num_images, num_tokens = self._shape
        for layer in self._decoder.bert.encoder.layer:
            cross = layer.crossattention.self
            weight, size = cross.key.weight, cross.attention_head_size
            num_heads = cross.num_attention_heads
            of_images = (num_images, num_heads, num_patches, size)
            of_tokens = (len(self.row_places), num_heads, num_tokens, size)
            shapes = (of_images, of_images, of_tokens, of_tokens)
            kept = [weight.new_zeros(shape, requires_grad=False) for shape in shapes]
            for tensor in kept:
                _keep_address(tensor)
            self.layers.append(StaticLayer(layer, LayerMemory(*kept)))


def step(
    decoder: Any,
    workspace: Workspace,
    tokens: Int[Tensor, "n 1"],
    origins: Int[Tensor, " n"] | None,
) -> Float[Tensor, "n v"]:
    """Read one token of every row of a workspace, and go on to the next position.

    Args:
        decoder: The workspace's.
        workspace: Which has read the start.
        tokens: Of all rows, those that count and those that do not.
        origins: The rows that rows go on from; None: all from themselves.

    Returns:
        The logits of the token that follows.
    """
    position = workspace.position
    hidden = decoder.bert.embeddings(input_ids=tokens, position_ids=position[None])
    for layer in workspace.layers:
        hidden = layer.step(hidden, position, origins)
    position.add_(1)
    return predict(decoder, hidden)


Step = Callable[[Any, Workspace, Tensor, Tensor | None], Tensor]


class StaticDecodingState:
    """A batch of images in a workspace; a `DecodingState`. One at a time in each workspace."""

    def __init__(
        self,
        decoder: Any,
        workspace: Workspace,
        images: Float[Tensor, "k s d"],
        advance: Step = step,
    ) -> None:
        """Prepare to caption.

        Args:
            decoder: The workspace's.
            workspace: Of room enough.
            images: What `encode_images` makes of them; not needed afterwards.
            advance: `step`, as it is or compiled.
        """
        self._decoder = decoder
        self._workspace = workspace
        self._advance = advance
        self._num_rows = 1
        self._num_start = 0
        self._places = torch.arange(len(images), device=images.device)  # of the images left
        self._origins: Int[Tensor, " n"] | None = None
        workspace.begin(images)

    def feed(self, tokens: Int[Tensor, "m t"]) -> Float[Tensor, "m v"]:
        """Read all that captions start with, or one token more of every row."""
        workspace = self._workspace
        if not self._num_start:
            self._num_start = tokens.shape[1]
            return workspace.start(tokens)
        rows = self._row_places()
        everywhere = tokens.new_zeros((len(workspace.row_places), 1))
        everywhere[rows] = tokens
        # Beams are reordered at every step but the first: one arithmetic for all of them.
        unmoved = workspace.row_places if workspace.num_rows > 1 else None
        origins = unmoved if self._origins is None else self._origins
        self._origins = None
        # Picking rows also copies them, before the next step writes its logits there.
        return self._advance(self._decoder, workspace, everywhere, origins)[rows]

    def widen(self, num_rows: int) -> None:
        """Copy every image's row."""
        self._num_rows = num_rows
        self._workspace.spread(self._num_start)

    def reorder(self, rows: Int[Tensor, " m"]) -> None:
        """Let rows go on from others of their images, as of the next step."""
        if self._workspace.num_rows > 1:
            places = self._row_places()
            self._origins = self._workspace.row_places.clone()
            self._origins[places] = places[rows]

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Drop all images but these."""
        self._places = self._places[images]

    def _row_places(self) -> Int[Tensor, " m"]:
        rows = torch.arange(self._num_rows, device=self._places.device)
        return (self._places[:, None] * self._workspace.num_rows + rows).flatten()


def _keep_address(tensor: Tensor) -> None:
    """Tell torch that a tensor stays where it is.

    Without it CUDA graphs are not used for what writes into its arguments.
    """
    mark: Any = torch._dynamo.mark_static_address  # untyped there
    mark(tensor, guard=False)  # at another address graphs are recorded anew, not compiled anew
