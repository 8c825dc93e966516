"""transformers' `generate`: as it is, compiled, and with a static cache."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import EncoderDecoderCache

from bench.blip import NUM_TOKENS
from bench.peers.decoding import Captions


class Generate:
    """Captions with `generate`, as a script would call it."""

    def __init__(self, blip: Any, **settings: Any) -> None:
        """Prepare.

        Args:
            blip: A `BlipForConditionalGeneration`.
            settings: Further arguments of `generate`.
        """
        self._blip = blip
        self._settings = settings

    def caption(self, pixels: Float[Tensor, "b 3 h w"], num_beams: int) -> Captions:
        """Return the generated tokens."""
        with torch.inference_mode():
            found = self._blip.generate(
                pixel_values=pixels,
                num_beams=num_beams,
                min_new_tokens=NUM_TOKENS,
                max_new_tokens=NUM_TOKENS,
                **self._settings,
                **self.cache(),
            )
        captions: Captions = found[:, 1:].tolist()  # without the start token
        return captions

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> None:
        """Run the image encoder."""
        with torch.inference_mode():
            self._blip.vision_model(pixel_values=pixels)

    def cache(self) -> dict[str, Any]:
        """Return the cache for a batch, as an argument of `generate`."""
        return {}


class GenerateStatic(Generate):
    """With a static cache of the tokens, made by hand.

    `cache_implementation="static"` makes one cache that BLIP's decoder takes for tokens and for
    images, which raises an error.
    """

    def cache(self) -> dict[str, Any]:
        """Return an empty cache."""
        config = self._blip.text_decoder.config
        tokens = StaticCache(config=config, max_cache_len=NUM_TOKENS + 1)
        return {"past_key_values": EncoderDecoderCache(tokens, DynamicCache(config=config))}


def compiled(blip: Any, dynamic: bool) -> Any:
    """Return a copy whose encoder and decoder are compiled by torch.

    Not all of `generate` at once: the search between two steps has branches on values.

    Args:
        blip: Left as it is.
        dynamic: Whether the cache grows, so that the decoder must be compiled for any length.
    """
    compiler: Any = torch.compile
    copied = copy.deepcopy(blip)
    copied.vision_model.forward = compiler(copied.vision_model.forward)
    decoder = copied.text_decoder
    decoder.forward = compiler(decoder.forward, dynamic=True if dynamic else None)
    return copied
