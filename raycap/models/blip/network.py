"""BLIP's captioning network for inference, in plain torch.

The modules hold weights under the names of transformers' `BlipForConditionalGeneration`, so that
its safetensors load into them. `blip.decoding` computes with them, and with those of transformers,
which training uses. Only the embeddings have a `forward`.

Importing transformers and its modules takes twice as long as importing torch, which every process
that captions would wait for.

Source: Li et al. 2022, arXiv:2201.12086.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from raycap.models.blip.config import BlipConfig, TextConfig, VisionConfig

Activation = Callable[[Tensor], Tensor]


def _gelu_by_tanh(states: Tensor) -> Tensor:
    inner = states + 0.044715 * states.pow(3.0)
    return 0.5 * states * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * inner))


def _gelu_fast(states: Tensor) -> Tensor:
    inner = states * 0.7978845608 * (1.0 + 0.044715 * states * states)
    return 0.5 * states * (1.0 + torch.tanh(inner))


ACTIVATIONS: dict[str, Activation] = {
    "gelu": functional.gelu,
    "gelu_10": lambda states: functional.gelu(states).clip(-10, 10),
    "gelu_accurate": _gelu_by_tanh,
    "gelu_fast": _gelu_fast,
    "gelu_new": _gelu_by_tanh,
    "gelu_python": lambda states: states * 0.5 * (1.0 + torch.erf(states / math.sqrt(2.0))),
    "gelu_python_tanh": _gelu_by_tanh,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "hardswish": functional.hardswish,
    "leaky_relu": functional.leaky_relu,
    "linear": lambda states: states,
    "mish": functional.mish,
    "quick_gelu": lambda states: states * torch.sigmoid(1.702 * states),
    "relu": functional.relu,
    "relu2": lambda states: functional.relu(states).square(),
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}
"""Activation functions by their names in transformers; without those that have weights."""

# The device on which modules are built: weights are loaded in the place of their own, so nothing is
# allocated, and no random number drawn, for weights that are replaced.
_NOWHERE = torch.device("meta")
_linear = partial(nn.Linear, device=_NOWHERE)


class Group(nn.Module):
    """Modules and numbers by name, without a computation of its own."""

    def __init__(self, /, **parts: Any) -> None:  # "self" is the name of a part
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of its weights."""
        return next(self.parameters()).dtype


class VisionEmbeddings(nn.Module):
    """The patches of an image, with their positions, after a class token."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, side = config.hidden_size, config.patch_size
        num_patches = (config.image_size // side) ** 2
        self.patch_embedding = nn.Conv2d(3, width, side, stride=side, device=_NOWHERE)
        self.class_embedding = _parameter(1, 1, width)
        self.position_embedding = _parameter(1, num_patches + 1, width)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b s d"]:
        """Embed images of the size that the model was trained for."""
        patches: Tensor = self.patch_embedding(pixels)
        patches = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat((first, patches), 1) + self.position_embedding


class TextEmbeddings(nn.Module):
    """Tokens with their positions."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = _embedding(config.vocab_size, width)
        self.position_embeddings = _embedding(config.max_position_embeddings, width)
        self.LayerNorm = _layer_norm(width, config)

    def forward(
        self,
        input_ids: Int[Tensor, "n t"],
        position_ids: Int[Tensor, "1 t"] | None = None,
        past_key_values_length: int = 0,
    ) -> Float[Tensor, "n t d"]:
        """Embed tokens; the parameters are named as in transformers.

        Args:
            input_ids: The tokens.
            position_ids: Their positions; None if they follow one another.
            past_key_values_length: Position of the first token, without `position_ids`.
        """
        if position_ids is None:
            until = past_key_values_length + input_ids.shape[1]
            positions = self.position_embeddings.weight[None, past_key_values_length:until]
        else:
            positions = self.position_embeddings(position_ids)
        normed: Tensor = self.LayerNorm(self.word_embeddings(input_ids) + positions)
        return normed


def build_network(config: BlipConfig) -> Group:
    """Build a BLIP captioning network without weights: they are on torch's device `meta`.

    Raises:
        ValueError: it has an activation function that raycap does not support.
    """
    vision, text = config.vision_config, config.text_config
    width = vision.hidden_size
    network = Group(
        vision_model=Group(
            embeddings=VisionEmbeddings(vision),
            encoder=Group(layers=_repeat(_vision_layer, vision)),
            post_layernorm=_layer_norm(width, vision),
        ),
        text_decoder=Group(
            bert=Group(
                embeddings=TextEmbeddings(text),
                encoder=Group(layer=_repeat(partial(_text_layer, image_width=width), text)),
            ),
            cls=Group(predictions=_head(text)),
            config=text,
        ),
        config=config,
    )
    return network.requires_grad_(False).eval()


def tied_weights(config: BlipConfig) -> dict[str, str]:
    """Return the names of weights that are the same as others, and the names of those."""
    if not (config.tie_word_embeddings or config.text_config.tie_word_embeddings):
        return {}
    head = "text_decoder.cls.predictions"
    return {
        f"{head}.decoder.bias": f"{head}.bias",
        f"{head}.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    }


def _vision_layer(config: VisionConfig) -> Group:
    width, num_heads = config.hidden_size, config.num_attention_heads
    return Group(
        self_attn=Group(
            qkv=_linear(width, 3 * width),
            projection=_linear(width, width),
            num_heads=num_heads,
            scale=(width // num_heads) ** -0.5,
        ),
        layer_norm1=_layer_norm(width, config),
        mlp=Group(
            fc1=_linear(width, config.intermediate_size),
            fc2=_linear(config.intermediate_size, width),
            activation_fn=_activation(config),
        ),
        layer_norm2=_layer_norm(width, config),
    )


def _text_layer(config: TextConfig, image_width: int) -> Group:
    width, inner = config.hidden_size, config.intermediate_size
    return Group(
        attention=_attention(config, width),
        crossattention=_attention(config, image_width),
        intermediate=Group(dense=_linear(width, inner), intermediate_act_fn=_activation(config)),
        output=Group(dense=_linear(inner, width), LayerNorm=_layer_norm(width, config)),
    )


def _attention(config: TextConfig, read_width: int) -> Group:
    """Build attention to states of a width: those of the tokens, or of the patches."""
    width, num_heads = config.hidden_size, config.num_attention_heads
    inner = Group(
        query=_linear(width, width),
        key=_linear(read_width, width),
        value=_linear(read_width, width),
        num_attention_heads=num_heads,
        attention_head_size=width // num_heads,
    )
    output = Group(dense=_linear(width, width), LayerNorm=_layer_norm(width, config))
    return Group(self=inner, output=output)


def _head(config: TextConfig) -> Group:
    width = config.hidden_size
    return Group(
        transform=Group(
            dense=_linear(width, width),
            transform_act_fn=_activation(config),
            LayerNorm=_layer_norm(width, config),
        ),
        decoder=_linear(width, config.vocab_size),
        # Unused, as in transformers: `decoder.bias` counts, which may be stored under this name.
        bias=_parameter(config.vocab_size),
    )


def _repeat(build: Callable[[Any], Group], config: VisionConfig | TextConfig) -> nn.ModuleList:
    return nn.ModuleList(build(config) for _ in range(config.num_hidden_layers))


def _activation(config: VisionConfig | TextConfig) -> Activation:
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {config.hidden_act!r}, not {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[config.hidden_act]


def _layer_norm(width: int, config: VisionConfig | TextConfig) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=config.layer_norm_eps, device=_NOWHERE)


def _embedding(num_rows: int, width: int) -> nn.Embedding:
    # With weights: otherwise random ones are drawn, and that imports torch's compiler on this
    # device, which takes a second.
    return nn.Embedding(num_rows, width, _weight=torch.empty(num_rows, width, device=_NOWHERE))


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=_NOWHERE))
