"""CLIPScore: how well a caption fits its image, measured by embeddings of a CLIP model.

Source: Hessel et al. 2021, arXiv:2104.08718, eq. 1 and 2; CLIP: Radford et al. 2021,
arXiv:2103.00020. Everything is computed in fp32, so that scores do not depend on the machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.device import pick_device
from raycap.models.pretrained import load_complete, loading

PROMPT = "A photo depicts "
"""Prefix of every caption and reference, as in the paper."""

_WEIGHT = 2.5
_TEXTS_A_BATCH = 256


class ClipScorer:
    """Scores captions with any Hugging Face CLIP model."""

    def __init__(
        self,
        model: Any,  # a CLIPModel; transformers' own types are partial
        tokenizer: Any,
        processor: Any,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._processor = processor
        self._max_tokens = model.config.text_config.max_position_embeddings

    @classmethod
    def from_pretrained(cls, folder: Path) -> "ClipScorer":
        """Load a folder onto the accelerator, or onto the CPU if there is none.

        Args:
            folder: Hugging Face folder with safetensors. Nothing is downloaded, and no code of the
                folder runs.

        Raises:
            ModelError: its files are broken or do not fit together.
        """
        tokens: Any = AutoTokenizer.from_pretrained
        # Pillow's resizing, as the authors used: torchvision's bicubic filter differs.
        pixels: Any = CLIPImageProcessorPil.from_pretrained
        with loading(folder, "CLIP"):
            model = load_complete(CLIPModel, folder, torch.float32)
            tokenizer = tokens(folder, local_files_only=True, trust_remote_code=False)
            parts = tokenizer, pixels(folder, local_files_only=True)
        return cls(model.to(pick_device()), *parts)

    def target(self, width_px: int, height_px: int) -> Target:
        """Return the size to which an image of this size is resized before it is cropped.

        An image already resized to it needs little memory and scores the same, up to rounding.
        """
        size = self._processor.size
        if not self._processor.do_resize:
            width, height = width_px, height_px
        elif size.shortest_edge:
            short, long = sorted((width_px, height_px))
            scaled = int(size.shortest_edge * long / short)
            is_upright = width_px <= height_px
            width = size.shortest_edge if is_upright else scaled
            height = scaled if is_upright else size.shortest_edge
        else:
            width, height = size.width, size.height
        filter_name = Image.Resampling(self._processor.resample).name.lower()
        return Target(width_px=width, height_px=height, resample=filter_name)

    @torch.inference_mode()
    def score(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        captions: Sequence[str],
        references: Sequence[Sequence[str]],
    ) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, " b"]]:
        """Score a batch of images, each with one caption.

        Args:
            images: RGB of any size; the model's image processor resizes and crops them.
            captions: Captions longer than the model's context are cut.
            references: Per image. Only the second score uses them.

        Returns:
            CLIPScore, from 0 to 2.5; and RefCLIPScore, its harmonic mean with the cosine of the
            closest reference: NaN for an image without references.

        Raises:
            ModelError: the embeddings are not finite.
        """
        if not len(images):
            return np.empty(0), np.empty(0)
        said = self._embed_texts(captions)
        fits = (self._embed_images(images) * said).sum(-1).numpy(force=True).astype(np.float64)
        owners = np.repeat(np.arange(len(images)), [len(one) for one in references])
        written = self._embed_texts([text for one in references for text in one])
        likeness = (written * said[owners]).sum(-1).numpy(force=True).astype(np.float64)
        if not (np.isfinite(fits).all() and np.isfinite(likeness).all()):
            raise ModelError("the CLIP's embeddings are not finite: choose another model")
        closest = np.full(len(images), -np.inf)
        np.maximum.at(closest, owners, likeness)
        clip = _WEIGHT * np.maximum(fits, 0.0)
        return clip, _harmonic_mean(clip, np.where(closest == -np.inf, np.nan, closest.clip(0.0)))

    def _embed_images(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float[Tensor, "b dim"]:
        pixels = self._processor(
            list(images), input_data_format="channels_last", return_tensors="pt"
        ).pixel_values
        features = self._model.get_image_features(pixels.to(self._model.device)).pooler_output
        return torch.nn.functional.normalize(features, dim=-1)

    def _embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n dim"]:
        found = [torch.empty(0, self._model.config.projection_dim, device=self._model.device)]
        for start in range(0, len(texts), _TEXTS_A_BATCH):
            tokens = self._tokenizer(
                [PROMPT + text for text in texts[start : start + _TEXTS_A_BATCH]],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            ).to(self._model.device)
            features = self._model.get_text_features(
                tokens.input_ids, attention_mask=tokens.attention_mask
            )
            found.append(torch.nn.functional.normalize(features.pooler_output, dim=-1))
        return torch.cat(found)


def _harmonic_mean(
    first: Float64[np.ndarray, " b"], second: Float64[np.ndarray, " b"]
) -> Float64[np.ndarray, " b"]:
    """Return the harmonic mean of non-negative numbers; 0 if either is 0."""
    total = first + second
    mean = np.where(total == 0, 0.0, 2 * first * second / np.where(total == 0, 1.0, total))
    return np.asarray(mean)
