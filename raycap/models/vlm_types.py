"""Which models transformers knows as vision-language models."""


def is_vlm(model_type: object) -> bool:
    """Whether transformers loads a `model_type` of `config.json` as an image-text-to-text model."""
    if not isinstance(model_type, str):
        return False
    # takes seconds to import, and only a model of a kind that is not raycap's own needs it
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
