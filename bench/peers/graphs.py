"""BLIP as two graphs, as ONNX Runtime and OpenVINO need it: encoder, and one step of the decoder.

Both use the modules and weights of transformers. The encoder's graph also computes the keys and
values of cross attention, once per image. The decoder's graph reads one token per row and returns
the logits and the extended cache. It reorders the cache itself, so that the cache never leaves the
runtime: `parents` names the row that each row continues.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

# B = images, R = rows per image, N = B * R rows, H = heads, S = patches and class token, D = size
# of a head, P = tokens read before, M = rows before the step

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Maps queries `[b, q, h * e]`, keys and values (like the queries, or `[b, h, s, e]`), and the
number of heads to `[b, q, h * e]`."""


def torch_attention(queries: Tensor, keys: Tensor, values: Tensor, num_heads: int) -> Tensor:
    """Attend with torch's fused attention, which OpenVINO converts to its own."""
    attended = functional.scaled_dot_product_attention(
        _heads(queries, num_heads), _heads(keys, num_heads), _heads(values, num_heads)
    )
    return attended.transpose(1, 2).flatten(2)


def one_query_attention(queries: Tensor, keys: Tensor, values: Tensor, num_heads: int) -> Tensor:
    """Attend without matrix products, for one query per row.

    OpenVINO 2026.4.1 joins matrix products and fused attention alike into an operator of its own.
    With one query and 16 keys or more its results were wrong, on an AMD EPYC with AVX-512. They are
    right without that operator (`SNIPPETS_MODE=DISABLE`), and in this form.
    """
    queries = _heads(queries, num_heads)
    weights = (queries * queries.shape[-1] ** -0.5 * keys).sum(-1, keepdim=True).softmax(2)
    attended: Tensor = (weights * values).sum(2).flatten(1)[:, None]
    return attended


def contrib_attention(queries: Tensor, keys: Tensor, values: Tensor, num_heads: int) -> Tensor:
    """Attend with ONNX Runtime's own fused operator; for export only."""
    symbolic: Any = torch.onnx.ops.symbolic
    attended: Tensor = symbolic(
        "com.microsoft::MultiHeadAttention",
        (queries, keys, values),
        {"num_heads": num_heads},
        dtype=queries.dtype,
        shape=queries.shape,
        version=1,
    )
    return attended


class Encoder(nn.Module):
    """Normalised pixels in; per decoder layer the keys and values of cross attention out."""

    def __init__(self, blip: Any, attend: Attention) -> None:
        super().__init__()
        self._vision = blip.vision_model
        self._layers = blip.text_decoder.bert.encoder.layer
        self._attend = attend

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b h s e"], ...]:
        """Encode a batch of images."""
        hidden = self._vision.embeddings(pixels)
        for layer in self._vision.encoder.layers:
            attention = layer.self_attn
            queries, keys, values = attention.qkv(layer.layer_norm1(hidden)).chunk(3, -1)
            attended = self._attend(queries, keys, values, attention.num_heads)
            hidden = hidden + attention.projection(attended)
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        hidden = self._vision.post_layernorm(hidden)
        found = []
        for layer in self._layers:
            cross = layer.crossattention.self
            for linear in (cross.key, cross.value):
                found.append(_heads(linear(hidden), cross.num_attention_heads).contiguous())
        return tuple(found)


class DecoderStep(nn.Module):
    """One token of every row."""

    def __init__(self, blip: Any, attend: Attention, attend_tokens: Attention) -> None:
        """Prepare.

        Args:
            blip: The network.
            attend: For the patches of the images.
            attend_tokens: For the tokens read so far, with one query per row.
        """
        super().__init__()
        # The vocabulary's weights are those of the word embeddings. A copy, because a shared table
        # is not converted to 8 bits.
        self._decoder = copy.deepcopy(blip.text_decoder)
        vocabulary = self._decoder.cls.predictions.decoder
        vocabulary.weight = nn.Parameter(vocabulary.weight.detach().clone())
        self._attend = attend
        self._attend_one = attend_tokens

    def forward(
        self,
        tokens: Int[Tensor, "b r"],
        parents: Int[Tensor, " n"],
        of_images: Sequence[Float[Tensor, "b h s e"]],
        of_tokens: Sequence[Float[Tensor, "m h p e"]],
    ) -> tuple[Tensor, ...]:
        """Read a token.

        Args:
            tokens: The last token of every row.
            parents: The row of the cache that each row continues.
            of_images: Keys and values per layer, by the encoder.
            of_tokens: Keys and values per layer: the cache.

        Returns:
            The logits `[N, V]`, and the cache of the N rows with this token.
        """
        hidden = self._embed(tokens, of_tokens[0].shape[2])
        cache: list[Tensor] = []
        for number, layer in enumerate(self._decoder.bert.encoder.layer):
            places = slice(2 * number, 2 * number + 2)
            attended, new = self._attend_tokens(
                layer.attention.self, hidden, parents, of_tokens[places]
            )
            cache += new
            hidden = layer.attention.output(attended, hidden)
            cross = layer.crossattention
            queries, (keys, values) = cross.self.query(hidden), of_images[places]
            attended = self._attend(queries, keys, values, cross.self.num_attention_heads)
            hidden = cross.output(attended, hidden)
            hidden = layer.output(layer.intermediate(hidden), hidden)
        return (self._decoder.cls(hidden).flatten(0, 1), *cache)

    def _embed(self, tokens: Int[Tensor, "b r"], position: int) -> Float[Tensor, "b r d"]:
        embeddings = self._decoder.bert.embeddings
        places = torch.full_like(tokens[:1, :1], 1) * position
        words = embeddings.word_embeddings(tokens) + embeddings.position_embeddings(places)
        normed: Tensor = embeddings.LayerNorm(words)
        return normed

    def _attend_tokens(
        self,
        attention: Any,
        hidden: Float[Tensor, "b r d"],
        parents: Int[Tensor, " n"],
        cache: Sequence[Float[Tensor, "m h p e"]],
    ) -> tuple[Float[Tensor, "b r d"], list[Tensor]]:
        size = attention.attention_head_size
        queries = attention.query(hidden).flatten(0, 1)[:, None]
        keys, values = (
            torch.cat((kept.index_select(0, parents), _token(linear(hidden), size)), 2)
            for kept, linear in zip(cache, (attention.key, attention.value), strict=True)
        )
        attended = self._attend_one(queries, keys, values, attention.num_attention_heads)
        attended = attended.flatten(1).view(hidden.shape)
        return attended, [keys, values]


def _token(states: Float[Tensor, "b r d"], head_size: int) -> Float[Tensor, "n h 1 e"]:
    rows = states.flatten(0, 1)
    return rows.view(rows.shape[0], -1, 1, head_size)


def _heads(states: Tensor, num_heads: int) -> Float[Tensor, "b h s e"]:
    if states.dim() == 4:
        return states
    return states.reshape(*states.shape[:2], num_heads, -1).transpose(1, 2)
