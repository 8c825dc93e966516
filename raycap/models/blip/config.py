"""The part of BLIP's `config.json` that decides its network. Imports no torch.

Defaults are those of transformers' `BlipConfig`; other keys of the file concern training or other
tasks and are ignored.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raycap.models.folders import CONFIG_FILE, read_json, read_section

Count = Annotated[int, Field(gt=0)]
Token = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Annotated[int, Field(ge=0)] = 12
    num_attention_heads: Count
    hidden_act: str = "gelu"
    """Name of the activation function; a key of `network.ACTIVATIONS`."""
    layer_norm_eps: float

    @model_validator(mode="after")
    def _check_heads(self) -> "_Part":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide "
                f"hidden_size={self.hidden_size}"
            )
        return self


class VisionConfig(_Part):
    """The vision transformer: transformers' `BlipVisionConfig`."""

    num_attention_heads: Count = 12
    layer_norm_eps: float = 1e-5
    image_size: Count = 384
    """Side of the square input, in pixels."""
    patch_size: Count = 16
    """Side of a patch, in pixels."""


class TextConfig(_Part):
    """The text decoder: transformers' `BlipTextConfig`."""

    num_attention_heads: Count = 8
    layer_norm_eps: float = 1e-12
    vocab_size: Count = 30524
    max_position_embeddings: Count = 512
    bos_token_id: Token = 30522
    """Starts every caption."""
    sep_token_id: Token = 102
    """Ends a caption; the `eos_token_id` of the file plays no part in captioning."""
    pad_token_id: Token | None = 0
    tie_word_embeddings: bool = True
    """Whether the logits' weights are the word embeddings."""


class BlipConfig(BaseModel):
    """Both parts, under their names in `config.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    vision_config: VisionConfig = VisionConfig()
    text_config: TextConfig = TextConfig()
    tie_word_embeddings: bool = True
    """As in the text decoder: either of the two suffices."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values, as the configurations that peft knows do."""
        return self.model_dump()


def read_blip_config(folder: Path) -> BlipConfig:
    """Read `config.json` of a BLIP folder.

    Raises:
        ModelError: the file is missing, or has values that make no network.
    """
    file = folder / CONFIG_FILE
    given = {name: value for name, value in read_json(file).items() if value is not None}
    return read_section(file, BlipConfig, given)
