"""BLIP's arithmetic compiled for a few fixed shapes, and the memory that it works in."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from raycap.models.blip_decoding import encode_images
from raycap.models.blip_static import StaticDecodingState, Workspace, step
from raycap.models.compiling import compile_fixed
from raycap.models.runtime import is_out_of_memory

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
