"""BLIP compiled with torch.compile for a few fixed shapes, with CUDA graphs on CUDA. Experimental.

All of `model.compile` is in this file. Its speed on a GPU has not been measured.

Tensors keep their shapes and addresses. The numbers are those of `blip.decoding`, up to rounding.
Differences, and their reasons:

- the position is a number on the device, and attention covers the whole length with a mask over
  what is not written yet, so that every step runs the same operations;
- nothing moves when an image is finished: rows keep their places, and a list maps each remaining
  row to its place. Rows that are finished or unused are computed and ignored;
- beams are reordered within the step, where a copy needs no kernel launch of its own;
- memory is kept from batch to batch, because CUDA graphs read and write at recorded addresses.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from raycap.errors import ModelError
from raycap.models.blip.decoding import LayerMemory, LayerState, encode_images, predict, project
from raycap.models.process import is_out_of_memory

# B = places for images, H = heads, S = patches and class token, D = size of a head, R = maximum
# rows per image, N = B * R places for rows, T = tokens, K = remaining images, M = remaining rows


class StaticLayer(LayerState):
    """A decoder layer whose memory keeps its address."""

    def step(
        self,
        hidden: Float[Tensor, "n 1 d"],
        position: Int[Tensor, "1"],
        origins: Int[Tensor, " n"] | None,
    ) -> Float[Tensor, "n 1 d"]:
        """Apply the layer to the token at a position of every row.

        Args:
            hidden: Hidden states of the tokens.
            position: The same for all rows.
            origins: The rows to continue from; None if every row continues from itself.
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
        """Store the keys and values of a batch of images, and clear those of tokens."""
        cross, memory = self._layer.crossattention.self, self.memory
        size = self._head_size
        memory.image_keys[: len(images)] = project(cross.key, images, size)
        memory.image_values[: len(images)] = project(cross.value, images, size)
        # Masked values have weight 0, but 0 times a NaN of an earlier, failed batch is NaN.
        memory.keys.zero_()
        memory.values.zero_()

    def first_rows(self, num_images: int) -> LayerState:
        """Return the layer for the first row of each image only, to read the start."""
        memory, num_places = self.memory, len(self.memory.image_keys)
        keys, values = (
            kept.view(num_places, -1, *kept.shape[1:])[:num_images, 0]
            for kept in (memory.keys, memory.values)
        )
        return LayerState(
            self._layer, LayerMemory(memory.image_keys, memory.image_values, keys, values)
        )

    def spread(self, num_read: int) -> None:
        """Copy keys and values of each image's first row to its other rows."""
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
    """Memory for batches of one shape, one at a time."""

    def __init__(self, decoder: Any, num_images: int, num_rows: int, num_tokens: int) -> None:
        """Prepare; the first batch allocates the memory.

        Args:
            decoder: A `BlipTextLMHeadModel` in evaluation mode.
            num_images: Maximum number of images.
            num_rows: Maximum number of rows per image.
            num_tokens: Maximum number of tokens that a row reads.
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
        """Store a batch of images."""
        if not self.layers:
            self._set_aside(images.shape[1])
        for layer in self.layers:
            layer.begin(images)
        self.position.zero_()

    def start(self, tokens: Int[Tensor, "k t"]) -> Float[Tensor, "k v"]:
        """Read the start of all captions, one row per image."""
        hidden = self._decoder.bert.embeddings(input_ids=tokens)
        for layer in self.layers:
            hidden = layer.first_rows(len(tokens)).advance(hidden, len(tokens), 0)
        self.position.fill_(tokens.shape[1])
        return predict(self._decoder, hidden)

    def spread(self, num_read: int) -> None:
        """Copy the first row of each image to its other rows."""
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
    """Read one token of every row of a workspace, and advance the position.

    Args:
        decoder: That of the workspace.
        workspace: After its `start`.
        tokens: Of all rows, used or not.
        origins: The rows to continue from; None if every row continues from itself.

    Returns:
        The logits of the next token.
    """
    position = workspace.position
    hidden = decoder.bert.embeddings(input_ids=tokens, position_ids=position[None])
    for layer in workspace.layers:
        hidden = layer.step(hidden, position, origins)
    position.add_(1)
    return predict(decoder, hidden)


Step = Callable[[Any, Workspace, Tensor, Tensor | None], Tensor]


class StaticDecodingState:
    """A batch of images in a workspace; a `DecodingState`. One at a time per workspace."""

    def __init__(
        self,
        decoder: Any,
        workspace: Workspace,
        images: Float[Tensor, "k s d"],
        advance: Step = step,
    ) -> None:
        """Prepare to caption.

        Args:
            decoder: That of the workspace.
            workspace: Large enough for the batch.
            images: The result of `encode_images`; not needed afterwards.
            advance: `step`, compiled or not.
        """
        self._decoder = decoder
        self._workspace = workspace
        self._advance = advance
        self._num_rows = 1
        self._num_start = 0
        self._places = torch.arange(len(images), device=images.device)  # of the remaining images
        self._origins: Int[Tensor, " n"] | None = None
        workspace.begin(images)

    def feed(self, tokens: Int[Tensor, "m t"]) -> Float[Tensor, "m v"]:
        """Read the start of all captions, or one more token of every row."""
        workspace = self._workspace
        if not self._num_start:
            self._num_start = tokens.shape[1]
            return workspace.start(tokens)
        rows = self._row_places()
        everywhere = tokens.new_zeros((len(workspace.row_places), 1))
        everywhere[rows] = tokens
        # Beams are reordered at every step but the first; reordering always compiles only once.
        unmoved = workspace.row_places if workspace.num_rows > 1 else None
        origins = unmoved if self._origins is None else self._origins
        self._origins = None
        # Indexing copies the rows, before the next step overwrites its logits.
        return self._advance(self._decoder, workspace, everywhere, origins)[rows]

    def widen(self, num_rows: int) -> None:
        """Copy the row of every image."""
        self._num_rows = num_rows
        self._workspace.spread(self._num_start)

    def reorder(self, rows: Int[Tensor, " m"]) -> None:
        """Continue rows from other rows of their images, from the next step on."""
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
    """Mark a tensor as one that keeps its address.

    Without this, torch uses no CUDA graphs for functions that write into their arguments.
    """
    mark: Any = torch._dynamo.mark_static_address  # untyped there
    mark(tensor, guard=False)  # another address records the graphs again but does not recompile


_MAX_SHAPES = 64
"""Maximum number of shapes to compile a function for. torch's default of 8 is too few for all
powers of two as batch sizes and several caption lengths; rounding bounds the number."""
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def compile_fixed(
    function: Callable[_Params, _Result], device: torch.device, backend: str = "inductor"
) -> Callable[_Params, _Result]:
    """Compile a function once per shape of its arguments, at the first call with that shape.

    On CUDA it is recorded as a CUDA graph. The next call of any compiled function then overwrites
    its result: copy results that are needed longer.

    Args:
        function: Compiled as a whole; code that torch cannot compile raises an error.
        device: Where its tensors are.
        backend: Backend of torch.compile; `eager` runs the function uncompiled.
    """
    records = device.type == "cuda" and backend == "inductor"
    compiled = torch.compile(
        function,
        fullgraph=True,
        dynamic=False,
        backend=backend,
        mode="reduce-overhead" if records else None,
    )

    @functools.wraps(function)
    def call(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
        torch_compiler: Any = torch.compiler  # untyped there
        if records:
            # Declares that the results of earlier calls are no longer needed.
            torch_compiler.cudagraph_mark_step_begin()
        settings: Any = torch._dynamo.config  # untyped there; imported at first use
        with settings.patch(recompile_limit=_MAX_SHAPES):
            return compiled(*args, **kwargs)

    return call


def check_compiler(device: torch.device) -> None:
    """Compile a small function, so that a missing compiler is reported before any image is read.

    Raises:
        ModelError: torch.compile does not work here.
    """
    try:
        compile_fixed(_something, device)(torch.ones(16, device=device))
    except Exception as error:
        tool = "a C++ compiler such as g++" if device.type == "cpu" else "triton and a C compiler"
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"model.compile=true: torch.compile does not work on this machine's {device.type}: "
            f"install {tool}, or leave the setting off ({reason})",
            setting="model.compile",
        ) from error


def _something(numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return numbers.sin() * numbers + 1.0


_TOKENS = 16  # lengths are rounded up to a multiple: fewer shapes, and aligned attention
_one_batch = Lock()


class CompiledBlip:
    """A compiled BLIP: rounds batches up to powers of two and compiles once per size.

    Captioners and threads may share it; batches wait for each other. Memory per thread would not
    help: torch keeps compiled code and CUDA graphs, with their memory, per process, where equal
    models share them. A device computes one batch after the other anyway.
    """

    def __init__(self, model: Any, backend: str = "inductor") -> None:
        """Prepare; the first batch of each shape compiles.

        Args:
            model: A `BlipForConditionalGeneration` in evaluation mode, on its device.
            backend: Of torch.compile.
        """
        self._vision, self._decoder = model.vision_model, model.text_decoder
        self._encode = compile_fixed(encode_images, model.device, backend)
        self._step = compile_fixed(step, model.device, backend)
        self._workspaces: dict[tuple[int, int, int], Workspace] = {}

    @contextmanager
    def read(
        self, pixels: Float[Tensor, "b 3 h w"], num_rows: int, num_tokens: int
    ) -> Iterator[StaticDecodingState]:
        """Encode a batch of images, and yield its initial state for the length of a `with` block.

        Args:
            pixels: Normalised.
            num_rows: Maximum number of captions tried at the same time per image.
            num_tokens: Maximum number of tokens that a caption reads.
        """
        with _one_batch:
            try:
                yield self._begin(pixels, num_rows, num_tokens)
            except Exception as error:
                if is_out_of_memory(error):
                    self._workspaces.clear()  # a smaller batch needs this memory
                raise

    def _begin(
        self, pixels: Float[Tensor, "b 3 h w"], num_rows: int, num_tokens: int
    ) -> StaticDecodingState:
        num_images = len(pixels)
        size = 1 << (num_images - 1).bit_length()
        padded = functional.pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - num_images))
        shape = (size, num_rows, -(-num_tokens // _TOKENS) * _TOKENS)
        if shape not in self._workspaces:
            self._workspaces[shape] = Workspace(self._decoder, *shape)
        # The next step overwrites the encoded images, which are not needed by then.
        images = self._encode(self._vision, padded)[:num_images]
        return StaticDecodingState(self._decoder, self._workspaces[shape], images, self._step)
