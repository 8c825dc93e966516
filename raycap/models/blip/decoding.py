"""Fast decoding of BLIP with the modules of `blip.network`, or those of transformers.

It computes the same numbers as `BlipForConditionalGeneration.generate`. The differences:

- attention is torch's fused attention; on a CPU, the weights of linear layers are packed once
  (`blip.packed`), and unpacked layers use the faster of two libraries (`apply_linear`);
- keys and values of the patches are computed and stored once per image: its beams are the queries
  of one attention, so nothing is copied per beam;
- keys and values of the tokens are written into memory allocated at the start;
- a finished image leaves the batch, at the cost of moving the last image into its place;
- logits over the vocabulary are computed for the last token only.

Weights that are not packed are read from the modules at every call, so low-rank updates, autocast
and weights in training take effect. Dropout, which is off here, is left out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from raycap.models.blip.packed import ONEDNN, PackedLinear

# Measured on AMD EPYC with AVX-512, in fp32: oneDNN is 1.1 to 1.2 times as fast as the BLAS from
# 1,150 rows on, and up to 2 times below 64. In between it is a tenth slower, because it rearranges
# the weights at every call.
_FEW_ROWS = 64
_MANY_ROWS = 1024


def apply_linear(module: Any, states: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
    """Compute `module(states)`, up to rounding.

    Args:
        module: A module other than a plain `nn.Linear`, such as one with low-rank updates, is
            called.
        states: Contiguous.
    """
    num_rows = states.numel() // states.shape[-1]
    if _is_plain(module, states) and not _FEW_ROWS < num_rows < _MANY_ROWS:
        found: Tensor = ONEDNN(states, module.weight, module.bias, "none", [], "")
        return found
    called: Tensor = module(states)
    return called


def _activate(activation: Any, module: Any, states: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
    """Compute `activation(module(states))`, up to rounding."""
    function = getattr(activation, "act", activation)  # `act` of a module of transformers
    if isinstance(module, PackedLinear) and function is functional.gelu:
        return module.gelu(states)
    activated: Tensor = activation(apply_linear(module, states))
    return activated


def _is_plain(module: Any, states: Tensor) -> bool:
    return (
        ONEDNN is not None
        and type(module) is nn.Linear
        and states.device.type == "cpu"
        and states.dtype == module.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_grad_enabled()
        # torch.compile supports oneDNN's layers only with constant weights
        and not torch.compiler.is_compiling()
    )


# B = remaining images, H = heads, S = patches and class token, D = size of a head, R = rows per
# image, N = B * R rows, T = tokens


def encode_images(vision: Any, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b s d"]:
    """Compute the input of the decoder's cross attention: `vision(pixels).last_hidden_state`.

    Args:
        vision: A `BlipVisionModel` in evaluation mode.
        pixels: Normalised.
    """
    hidden = vision.embeddings(pixels)
    for layer in vision.encoder.layers:
        hidden = hidden + _attend_patches(layer.self_attn, layer.layer_norm1(hidden))
        mlp = layer.mlp
        inner = _activate(mlp.activation_fn, mlp.fc1, layer.layer_norm2(hidden))
        hidden = hidden + apply_linear(mlp.fc2, inner)
    normed: Tensor = vision.post_layernorm(hidden)
    return normed


class BlipDecodingState:
    """A batch of images in BLIP's text decoder; a `DecodingState`."""

    def __init__(self, decoder: Any, images: Float[Tensor, "b s d"], num_tokens: int) -> None:
        """Prepare to caption.

        Args:
            decoder: A `BlipTextLMHeadModel` in evaluation mode.
            images: The result of `encode_images`.
            num_tokens: Maximum number of tokens that a row reads.
        """
        self._decoder = decoder
        self._num_images = len(images)
        self._num_read = 0
        self._layers = [
            LayerState(layer, set_aside(layer, images, num_tokens))
            for layer in decoder.bert.encoder.layer
        ]

    def feed(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n v"]:
        """Read the start of all captions, or one more token of every row."""
        hidden = self._decoder.bert.embeddings(
            input_ids=tokens, past_key_values_length=self._num_read
        )
        for layer in self._layers:
            hidden = layer.advance(hidden, self._num_images, self._num_read)
        self._num_read += tokens.shape[1]
        return predict(self._decoder, hidden)

    def widen(self, num_rows: int) -> None:
        """Copy the row of every image."""
        for layer in self._layers:
            layer.widen(num_rows)

    def reorder(self, rows: Int[Tensor, " n"]) -> None:
        """Continue rows from other rows of their images."""
        places = torch.arange(len(rows), device=rows.device)
        moved = (rows != places).nonzero()[:, 0]
        for layer in self._layers:
            layer.copy_rows(rows[moved], moved, self._num_read)

    def keep(self, images: Int[Tensor, " k"]) -> None:
        """Drop all images but these."""
        places = torch.arange(len(images), device=images.device)
        moved = (images != places).nonzero()[:, 0]
        for layer in self._layers:
            layer.copy_images(images[moved], moved)
        self._num_images = len(images)


@dataclass(slots=True)
class LayerMemory:
    """Keys and values of one decoder layer."""

    image_keys: Float[Tensor, "b h s e"]
    image_values: Float[Tensor, "b h s e"]
    keys: Float[Tensor, "n h t e"]
    values: Float[Tensor, "n h t e"]


def set_aside(layer: Any, images: Float[Tensor, "b s d"], num_tokens: int) -> LayerMemory:
    """Compute a layer's keys and values of the images, and allocate those of the tokens."""
    cross = layer.crossattention.self
    size = cross.attention_head_size
    image_keys = project(cross.key, images, size).contiguous()
    image_values = project(cross.value, images, size).contiguous()
    shape = (*image_keys.shape[:2], num_tokens, image_keys.shape[3])
    keys, values = image_keys.new_empty(shape), image_keys.new_empty(shape)
    return LayerMemory(image_keys, image_values, keys, values)


def project(
    linear: Any, states: Float[Tensor, "n t d"], head_size: int
) -> Float[Tensor, "n h t e"]:
    """Compute the keys, values or queries of states, as a view of the linear layer's output."""
    projected = apply_linear(linear, states)
    return projected.view(*projected.shape[:-1], -1, head_size).transpose(1, 2)


def predict(decoder: Any, hidden: Float[Tensor, "n t d"]) -> Float[Tensor, "n v"]:
    """Compute the logits of the next token."""
    head = decoder.cls.predictions
    last = apply_linear(head.transform.dense, hidden[:, -1].contiguous())
    last = head.transform.LayerNorm(head.transform.transform_act_fn(last))
    return apply_linear(head.decoder, last)


class LayerState:
    """One decoder layer and its memory, in which the remaining images come first."""

    def __init__(self, layer: Any, memory: LayerMemory) -> None:
        self._layer = layer
        self._head_size = layer.crossattention.self.attention_head_size
        self.memory = memory

    def advance(
        self, hidden: Float[Tensor, "n t d"], num_images: int, num_read: int
    ) -> Float[Tensor, "n t d"]:
        """Apply the layer to the next tokens of every row."""
        attended = self._attend_tokens(self._layer.attention.self, hidden, num_read)
        return self.finish(hidden, attended, num_images)

    def finish(
        self, hidden: Float[Tensor, "n t d"], attended: Float[Tensor, "n t d"], num_images: int
    ) -> Float[Tensor, "n t d"]:
        """Apply the rest of the layer, after self-attention."""
        own, cross = self._layer.attention, self._layer.crossattention
        hidden = _add(own.output, attended, hidden)
        hidden = _add(cross.output, self._attend_images(cross.self, hidden, num_images), hidden)
        middle = self._layer.intermediate
        inner = _activate(middle.intermediate_act_fn, middle.dense, hidden)
        return _add(self._layer.output, inner, hidden)

    def widen(self, num_rows: int) -> None:
        """Copy every row."""
        memory = self.memory
        memory.keys = memory.keys.repeat_interleave(num_rows, 0)
        memory.values = memory.values.repeat_interleave(num_rows, 0)

    def copy_rows(
        self, origins: Int[Tensor, " m"], places: Int[Tensor, " m"], num_read: int
    ) -> None:
        """Copy the keys and values of tokens from rows to other rows."""
        for kept in (self.memory.keys, self.memory.values):
            read = kept[:, :, :num_read]
            read[places] = read[origins]

    def copy_images(self, origins: Int[Tensor, " m"], places: Int[Tensor, " m"]) -> None:
        """Copy images, with their rows, to the places of others."""
        memory = self.memory
        for kept in (memory.image_keys, memory.image_values):
            kept[places] = kept[origins]
        for kept in (memory.keys, memory.values):
            of_images = kept.view(len(memory.image_keys), -1, *kept.shape[1:])
            of_images[places] = of_images[origins]

    def _attend_tokens(
        self, attention: Any, hidden: Float[Tensor, "n t d"], num_read: int
    ) -> Float[Tensor, "n t d"]:
        num_rows, num_new, _ = hidden.shape
        until = num_read + num_new
        keys, values = self.memory.keys, self.memory.values
        keys[:num_rows, :, num_read:until] = project(attention.key, hidden, self._head_size)
        values[:num_rows, :, num_read:until] = project(attention.value, hidden, self._head_size)
        attended = functional.scaled_dot_product_attention(
            project(attention.query, hidden, self._head_size),
            keys[:num_rows, :, :until],
            values[:num_rows, :, :until],
            is_causal=num_new > 1,  # only the start has several tokens, and nothing precedes it
        )
        return attended.transpose(1, 2).flatten(2)

    def _attend_images(
        self, attention: Any, hidden: Float[Tensor, "n t d"], num_images: int
    ) -> Float[Tensor, "n t d"]:
        # All rows of an image, and all their tokens, are queries of one attention.
        of_images = hidden.view(num_images, -1, hidden.shape[2])
        attended = functional.scaled_dot_product_attention(
            project(attention.query, of_images, self._head_size),
            self.memory.image_keys[:num_images],
            self.memory.image_values[:num_images],
        )
        return attended.transpose(1, 2).reshape(hidden.shape)


def _attend_patches(attention: Any, hidden: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
    """Compute `attention(hidden)[0]` of a `BlipAttention`."""
    joined = apply_linear(attention.qkv, hidden)
    mixed = joined.view(*joined.shape[:-1], 3, attention.num_heads, -1)
    queries, keys, values = mixed.permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(queries, keys, values, scale=attention.scale)
    return apply_linear(attention.projection, attended.transpose(1, 2).flatten(2))


def _add(
    output: Any, states: Float[Tensor, "n t e"], residual: Float[Tensor, "n t d"]
) -> Float[Tensor, "n t d"]:
    """Compute `output(states, residual)` of the decoder's output modules."""
    normed: Tensor = output.LayerNorm(apply_linear(output.dense, states) + residual)
    return normed
