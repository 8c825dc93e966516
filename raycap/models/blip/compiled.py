"""BLIP's arithmetic compiled for a few fixed shapes, and the memory that it works in.

BLIP's decoding in tensors that keep their shapes and addresses, so that it can be compiled.

The same numbers as `blip_decoding`, up to rounding. What differs, and why:

- the position is a number on the device, and attention covers the whole length with what is not yet
  written masked: the same arithmetic at every step;
- nothing moves when an image is done: rows keep their places, and a list says which place each row
  that is left has. The rows of what is done, or was never there, are computed and thrown away;
- rows change their beams within the step itself, in which a copy costs no launch;
- memory is kept from batch to batch: CUDA graphs read and write at the addresses they were recorded
  with.

torch.compile for arithmetic of a few fixed shapes, with CUDA graphs where there is CUDA.
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
from raycap.models.device import is_out_of_memory

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


_MAX_SHAPES = 64
"""Shapes that a function may be compiled for. torch stops at 8, which batches of every power of two
and a few lengths of captions exceed; ours are bounded by how they are rounded up."""
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")


def compile_fixed(
    function: Callable[_Params, _Result], device: torch.device, backend: str = "inductor"
) -> Callable[_Params, _Result]:
    """Compile a function once for each shape of its arguments, at the first call with it.

    On CUDA it is recorded as a CUDA graph. What it returns is then overwritten by the next call of
    anything compiled: copy what is to live longer.

    Args:
        function: Compiled as a whole; what torch cannot compile in it is an error.
        device: Where its tensors are.
        backend: What torch.compile hands the arithmetic to; `eager` runs it as it is.
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
            # Says that what earlier calls returned is no longer needed.
            torch_compiler.cudagraph_mark_step_begin()
        settings: Any = torch._dynamo.config  # as well; and imported when first used
        with settings.patch(recompile_limit=_MAX_SHAPES):
            return compiled(*args, **kwargs)

    return call


def check_compiler(device: torch.device) -> None:
    """Compile something small, so that a missing compiler is told before any image is read.

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
            f"install {tool}, or leave the setting off ({reason})"
        ) from error


def _something(numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return numbers.sin() * numbers + 1.0


_TOKENS = 16  # lengths are rounded up to a multiple of it: fewer shapes, and aligned attention
_one_batch = Lock()


class CompiledBlip:
    """Reads batches of any size; compiles once for each power of two that they are rounded up to.

    Captioners that share the model may share it, and threads a captioner: batches wait for each
    other. Memory for each thread would not do: torch keeps what it compiled, CUDA graphs with their
    memory too, by process, and captioners of like models meet there. A device computes one batch
    after the other anyway.
    """

    def __init__(self, model: Any, backend: str = "inductor") -> None:
        """Prepare to compile, which the first batch of each shape then does.

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
        """Give the state of a batch of images, which have read nothing yet, for the block's time.

        Args:
            pixels: Normalised.
            num_rows: Captions that are tried at a time for an image, at most.
            num_tokens: Tokens that a caption reads, at most.
        """
        with _one_batch:
            try:
                yield self._begin(pixels, num_rows, num_tokens)
            except Exception as error:
                if is_out_of_memory(error):
                    self._workspaces.clear()  # a smaller batch needs what this one held
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
        # What is encoded is overwritten by the next step, and by then no longer needed.
        images = self._encode(self._vision, padded)[:num_images]
        return StaticDecodingState(self._decoder, self._workspaces[shape], images, self._step)
