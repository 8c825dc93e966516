"""BLIP: a text decoder that attends to the patches of a vision transformer.

Source: Li et al. 2022, arXiv:2201.12086. Captions equal those of transformers'
`BlipForConditionalGeneration.generate`, token for token. Differences, and their reasons:

- raycap's generation settings replace those of the folder;
- images are sampled one by one, with a seed from their pixels, so that samples do not depend on the
  batch;
- pixels are copied to the device as bytes and normalised there;
- decoding is faster: see `blip.decoding`, and `blip.compiled` for `model.compile`.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.images.decoding import Target
from raycap.models.adapters import merge_adapter
from raycap.models.base import Caption, Question, Questions, asked_generation
from raycap.models.blip.compiled import CompiledBlip, check_compiler
from raycap.models.blip.config import read_blip_config
from raycap.models.blip.decoding import BlipDecodingState, encode_images
from raycap.models.blip.int8 import check_int8, quantize
from raycap.models.blip.kind import check_blip_folder
from raycap.models.blip.network import Group, build_network, tied_weights
from raycap.models.blip.packed import pack
from raycap.models.blip.tokenizer import BlipTokenizer
from raycap.models.decoding import caption_with, decode
from raycap.models.decoding.state import Decoded
from raycap.models.device import own_stream, pick_device, pick_dtype, upload
from raycap.models.folders import Preprocessing
from raycap.models.weights import fill, load_errors

_PREFIX = "blip."
"""What names of weights may begin with, as transformers accepts them."""


class BlipCaptioner:
    """Captions images with any Hugging Face BLIP captioning model."""

    def __init__(
        self,
        model: Any,  # a `network.Group`, or transformers' BlipForConditionalGeneration
        tokenizer: BlipTokenizer,
        preprocessing: Preprocessing,
        generation: GenerationConfig,
        compiled: CompiledBlip | None = None,
    ) -> None:
        """Prepare to caption.

        Args:
            model: The network; put into evaluation mode.
            tokenizer: Of its text.
            preprocessing: Conversion of pixels to its input.
            generation: How captions are generated.
            compiled: The compiled network; None to run it without compilation.
        """
        self._model = model.eval()
        self._compiled = compiled
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing
        self._generation = generation
        self._start = self._start_tokens(generation)
        self._mean = torch.tensor(preprocessing.mean, device=model.device).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=model.device).view(3, 1, 1)

    @classmethod
    def from_pretrained(
        cls, folder: Path, model: ModelConfig, generation: GenerationConfig
    ) -> "BlipCaptioner":
        """Load a folder onto the accelerator, or onto the CPU if there is none.

        Args:
            folder: Hugging Face folder with safetensors. Nothing is downloaded, and no code of the
                folder runs.
            model: Precision, adapter and compilation.
            generation: How captions are generated.

        Raises:
            ModelError: the folder is not a complete BLIP captioner; the prompt and
                `generation.max_new_tokens` together exceed its maximum length; the processor does
                not support `model.precision=int8`; or `model.compile` does not work here.
        """
        preprocessing = check_blip_folder(folder)
        device = pick_device()
        if model.compile:
            check_compiler(device)
        assert model.precision != "fast"  # decided by load.load_captioner
        if model.precision == "int8":
            check_int8(device)
            network, tokenizer = load_network(folder, torch.float32, model.adapter)
            quantize(network)
        else:
            dtype = pick_dtype(model.precision, device)
            network, tokenizer = load_network(folder, dtype, model.adapter)
            if device.type == "cpu" and not model.compile:
                pack(network)
        network.to(device)
        compiled = CompiledBlip(network) if model.compile else None
        return cls(network, tokenizer, preprocessing, generation, compiled)

    @property
    def target(self) -> Target:
        """Size of the input images, and how to resample to it."""
        return self._preprocessing.target

    @torch.inference_mode()
    def caption(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> list[Caption]:
        """Caption a batch; `alternatives` are sorted best first.

        The best caption has the highest beam score (which includes `length_penalty`), or the
        highest `logprob` if captions are sampled.

        Raises:
            FloatingPointError: the scores of an image are not finite.
        """
        with own_stream(self._model.device):
            starts = [self._start] * len(pixels)
            return self._search(pixels, self._read(pixels), starts, self._generation)

    @torch.inference_mode()
    def answer(
        self, pixels: UInt8[np.ndarray, "b h w 3"], questions: Questions
    ) -> list[list[Caption]]:
        """Continue each prompt; images are encoded once.

        Raises:
            FloatingPointError: the scores of an image are not finite.
            ValueError: a prompt and its answer are too long for the model.
        """
        asked = [self._starts(of_prompt) for of_prompt in zip(*questions, strict=True)]
        with own_stream(self._model.device):
            images = self._read(pixels)
            by_prompt = [self._ask(pixels, images, *one) for one in asked]
        return [list(answers) for answers in zip(*by_prompt, strict=True)]

    def with_generation(self, generation: GenerationConfig) -> "BlipCaptioner":
        """Return a captioner with other settings that shares the weights.

        Raises:
            ModelError: the prompt and `max_new_tokens` exceed the model's maximum length.
        """
        return BlipCaptioner(
            self._model, self._tokenizer, self._preprocessing, generation, self._compiled
        )

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Count tokens as `generation.max_new_tokens` does, without the end token."""
        return [len(tokens) for tokens in self._tokenizer.encode(captions)]

    def _start_tokens(self, generation: GenerationConfig) -> list[int]:
        """Return the tokens that a caption starts with: the start token, then the prompt."""
        text = self._model.config.text_config
        (prompt,) = self._tokenizer.encode([generation.prompt])
        # The last token is written but never read again.
        if len(prompt) + generation.max_new_tokens > text.max_position_embeddings:
            raise ModelError(
                f"generation.max_new_tokens: with the prompt's {len(prompt)} tokens at most "
                f"{text.max_position_embeddings - len(prompt)} for this model: lower it",
                setting="generation.max_new_tokens",
            )
        return [text.bos_token_id, *prompt]

    def _asked(self, question: Question) -> GenerationConfig:
        """Return the settings with which a question is answered."""
        asked = asked_generation(self._generation, question)
        if not question.is_shortened:
            return asked
        (prompt,) = self._tokenizer.encode([question.text])
        most = self._model.config.text_config.max_position_embeddings - len(prompt)
        if not 0 < most < asked.max_new_tokens:
            return asked
        least = min(asked.min_new_tokens, most)
        return asked.model_copy(update={"max_new_tokens": most, "min_new_tokens": least})

    def _starts(
        self, questions: Sequence[Question]
    ) -> tuple[list[GenerationConfig], list[list[int]]]:
        """Return the settings and first tokens of answers. Raises ValueError as `answer`."""
        asked = [self._asked(question) for question in questions]
        try:
            return asked, [self._start_tokens(generation) for generation in asked]
        except ModelError as error:
            # Not the model is at fault, but what was filled into this prompt.
            raise ValueError(str(error)) from error

    def _ask(
        self,
        pixels: UInt8[np.ndarray, "b h w 3"],
        images: Tensor,
        asked: list[GenerationConfig],
        starts: list[list[int]],
    ) -> list[Caption]:
        """Answer one question about each image; starts of equal length share a batch."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, (start, generation) in enumerate(zip(starts, asked, strict=True)):
            key = len(start), generation.max_new_tokens, generation.sampling.seed
            groups[key].append(place)
        found: dict[int, Caption] = {}
        for places in groups.values():
            captions = self._search(
                pixels[places],
                images[places],
                [starts[place] for place in places],
                asked[places[0]],
            )
            found.update(zip(places, captions, strict=True))
        return [found[place] for place in range(len(starts))]

    def _search(
        self,
        pixels: UInt8[np.ndarray, "b h w 3"],
        images: Tensor,
        starts: list[list[int]],
        generation: GenerationConfig,
    ) -> list[Caption]:
        """Caption images that were read, from starts of equal length."""
        device = self._model.device
        first = torch.tensor(starts, device=device)

        def decode_batch(some: slice) -> list[list[Decoded]]:
            return self._decode(images[some], first[some], generation)

        def text(place: int, tokens: list[int]) -> str:
            # Without the start token: not every tokenizer treats it as special.
            written = [*starts[place][1:], *tokens]
            return self._tokenizer.decode(written).strip()

        end_tokens = (self._model.config.text_config.sep_token_id,)
        return caption_with(decode_batch, text, pixels, generation, device, end_tokens)

    def _read(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Tensor:
        """Encode images; a compiled network encodes them when it decodes."""
        normal = self._normalise(pixels)
        if self._compiled is not None or not len(pixels):
            return normal
        return encode_images(self._model.vision_model, normal)

    def _decode(
        self, images: Tensor, start: Int[Tensor, "b p"], generation: GenerationConfig
    ) -> list[list[Decoded]]:
        # The last token is written but never read.
        num_tokens = start.shape[1] + generation.max_new_tokens - 1
        end_token = self._model.config.text_config.sep_token_id
        if self._compiled is not None:
            num_rows = max(generation.num_beams, generation.num_captions)
            with self._compiled.read(images, num_rows, num_tokens) as static:
                return decode(static, start, generation, end_token)
        state = BlipDecodingState(self._model.text_decoder, images, num_tokens)
        return decode(state, start, generation, end_token)

    def _normalise(self, pixels: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        # Bytes are a quarter of the size of floats. fp32 at first: bf16 cannot represent 0 to 255.
        on_device = upload(pixels, self._model.device).permute(0, 3, 1, 2)
        scaled = on_device.to(torch.float32) * self._preprocessing.rescale
        return ((scaled - self._mean) / self._std).to(self._model.dtype)


def load_network(
    folder: Path, dtype: torch.dtype, adapter: str | None = None
) -> tuple[Group, BlipTokenizer]:
    """Load a BLIP captioning network onto the CPU, and its tokenizer.

    Args:
        folder: Hugging Face folder, already checked.
        dtype: Data type to convert the weights to.
        adapter: Folder of a LoRA adapter to merge into them.

    Raises:
        ModelError: files are broken or do not fit together.
    """
    with load_errors(folder, "BLIP"):
        config = read_blip_config(folder)
        network = build_network(config)
        loaded = dtype if adapter is None else torch.float32
        fill(network, folder, loaded, tied_weights(config), _PREFIX)
        if adapter is not None:
            network = merge_adapter(network, Path(adapter)).to(dtype)
        return network, BlipTokenizer.load(folder)
