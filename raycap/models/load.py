"""Turn a model source into a captioner, on whatever node of the cluster this runs."""

from pathlib import Path

from raycap.config import GenerationConfig, ModelConfig
from raycap.errors import ModelError
from raycap.models.base import Captioner, ModelSource
from raycap.models.folders import SCRATCH_KINDS, SUPPORTED_KINDS, VLM, digest_folder
from raycap.models.hub import download
from raycap.models.safety import check_safe
from raycap.models.sources import DEMO_FOLDER, check_arithmetic
from raycap.models.stub import StubCaptioner


def load_captioner(
    source: ModelSource, model: ModelConfig, generation: GenerationConfig
) -> Captioner:
    """Load a captioner, fetching a Hub model again where this node has no copy.

    Raises:
        ModelError: the model is not here, differs from the one that was found, or cannot be
            loaded, or is asked for arithmetic that its kind does not have.
    """
    check_arithmetic(source, model)
    if source.kind == "stub":
        return StubCaptioner(model, generation)
    if source.kind not in SUPPORTED_KINDS:
        raise ModelError(
            f"{source.name}: no captioner of kind {source.kind!r}; there are: "
            f"{', '.join(SUPPORTED_KINDS)}, stub"
        )
    folder = safe_folder_here(source)
    # torch and transformers take seconds to import, and the stub needs neither
    if source.kind in SCRATCH_KINDS:
        from raycap.models.scratch.captioner import load_scratch_captioner  # noqa: PLC0415

        return load_scratch_captioner(folder, model, generation)
    if source.kind == VLM:
        from raycap.models.vlm.captioner import VlmCaptioner  # noqa: PLC0415

        return VlmCaptioner.from_pretrained(folder, model, generation)
    from raycap.models.blip.captioner import BlipCaptioner  # noqa: PLC0415

    return BlipCaptioner.from_pretrained(folder, model, generation)


def safe_folder_here(source: ModelSource) -> Path:
    """Find the model's folder on this node, and make sure that it is the same model.

    A Hub model is fetched again where this node has no copy.

    Raises:
        ModelError: the folder is not here, or its files differ from those that were found.
    """
    folder = _folder_here(source)
    check_safe(folder)  # the digest knows no files that are not the model's own
    return folder


def _folder_here(source: ModelSource) -> Path:
    if source.revision is not None:
        # Immediate where the commit is cached, and the commit pins the content.
        return download(source.name, source.revision)
    folder = DEMO_FOLDER if source.name == "demo" else Path(source.folder or "")
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: the model's folder is not on this node: put it at the same path on every "
            "node (a shared or copied folder), or name a model of the Hub"
        )
    if digest_folder(folder, source.kind) != source.digest:
        raise ModelError(
            f"{folder}: not the model this run started with (its files differ on this node, or "
            "changed since): restore them, or start a new run"
        )
    return folder
