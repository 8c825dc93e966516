"""A model's folder copied, to caption by other settings than before."""

import shutil
from pathlib import Path
from typing import Any

from raycap.config import GenerationConfig
from raycap.errors import ModelError
from raycap.models.base import ModelSource
from raycap.models.folders import (
    CONFIG_FILE,
    GENERATION_FILE,
    KIND_FILE,
    SCRATCH_KINDS,
    VLM,
    digest_folder,
    read_json,
    write_json,
)
from raycap.models.hub import ALLOWED_PATTERNS
from raycap.models.saved import GENERATION


def copy_model(
    source: ModelSource, folder: Path, generation: GenerationConfig, record: dict[str, Any]
) -> None:
    """Write a folder that captions as the source does, by those settings.

    Files of the model are copied as they are; those that a copy before this one left are kept.

    Args:
        source: A model in a folder of this machine.
        folder: Where to; made if it is not there.
        generation: For `raycap.json`, and in transformers' words for `generation_config.json`,
            which a `vlm` keeps as it is.
        record: Further keys of `raycap.json`.

    Raises:
        ModelError: the source has gone or cannot be read, or the copy cannot be written.
    """
    original = Path(source.folder or "")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if digest_folder(folder, source.kind) != source.digest:
            _copy_files(source, folder)
        kind_file = original / KIND_FILE
        before = read_json(kind_file) if kind_file.is_file() else {}
        if source.kind != VLM:
            _write_settings(source.kind, folder, generation)
    except OSError as error:
        raise ModelError(
            f"{original}: cannot be copied to {folder} ({error.strerror}): make room, or give "
            "another output"
        ) from error
    if digest_folder(folder, source.kind) != source.digest:
        raise ModelError(f"{original}: changed while it was copied: run the same command again")
    mark = {"kind": source.kind, GENERATION: generation.model_dump(mode="json")}
    write_json(folder / KIND_FILE, {**before, **mark, **record})


def _copy_files(source: ModelSource, folder: Path) -> None:
    """Copy one by one, each whole or not at all; links are followed."""
    original = Path(source.folder or "")
    # A vlm's own generation settings hold its special tokens, and are no word of raycap's.
    left_out = (KIND_FILE,) if source.kind == VLM else (KIND_FILE, GENERATION_FILE)
    for path in sorted(path for pattern in ALLOWED_PATTERNS for path in original.glob(pattern)):
        if path.name not in left_out and path.is_file():
            temporary = folder / f".{path.name}.tmp"
            shutil.copyfile(path, temporary)
            temporary.replace(folder / path.name)


def _write_settings(kind: str, folder: Path, generation: GenerationConfig) -> None:
    # torch and transformers take seconds to import, and whoever looks for a model needs neither
    if kind in SCRATCH_KINDS:
        from raycap.models.scratch.folders import write_generation  # noqa: PLC0415
        from raycap.models.scratch.tokenizer import END, PAD, START  # noqa: PLC0415

        write_generation(folder, generation, (PAD, START, END))
        return
    from transformers import BlipConfig  # noqa: PLC0415

    from raycap.models.blip.captioner import transformers_settings  # noqa: PLC0415

    text = BlipConfig.from_dict(read_json(folder / CONFIG_FILE)).text_config
    settings = transformers_settings(text, generation)
    write_json(folder / GENERATION_FILE, settings.to_diff_dict())
