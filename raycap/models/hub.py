"""Downloads from the Hugging Face Hub: safetensors, settings and vocabularies, never pickles.

A pickled checkpoint can run code when it is loaded. Many older repositories, including BLIP's, hold
only pickles on their main branch; for those the Hub's converter (the account SFconvertbot) has
opened a pull request with the same weights as safetensors. It is used under the same conditions as
in transformers: that account, an open pull request, and an unchanged pickle.
"""

import logging
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from raycap.errors import ModelError
from raycap.models.folders import WEIGHT_FILE, WEIGHT_INDEX_FILE
from raycap.storage.address import redact

ALLOWED_PATTERNS = ["*.json", "*.txt", "*.jinja", "*.safetensors"]
"""Files to download."""

_CONVERTER = "SFconvertbot"
_CONVERSION_TITLE = "Adding `safetensors` variant of this model"
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
_OFFLINE_HINT = "--model demo works offline, and so does a local folder"

_HUB_ERRORS = (
    OSError,
    ValueError,
    errors.HTTPError,  # type: ignore[attr-defined]  # of httpx or httpx2, by the hub's version
    getattr(errors, "XetDownloadError", OSError),  # newer hubs only
)

logger = logging.getLogger(__name__)


def download(name: str, revision: str | None) -> Path:
    """Download a model's safe files into the local cache, unless they are there already.

    Args:
        name: Repository, such as `Salesforce/blip-image-captioning-large`.
        revision: Branch, tag or commit; None for the main branch.

    Returns:
        A folder named after the commit.

    Raises:
        ModelError: the model or revision does not exist, or the Hub cannot be reached or refuses.
    """
    try:
        folder = _snapshot(name, revision)
        if revision is None and not _has_weights(folder):
            converted = _converted_revision(name)
            folder = _snapshot(name, converted) if converted else folder
    except _HUB_ERRORS as error:
        raise ModelError(_explain(redact(name), revision, error)) from None
    if not _has_weights(folder):
        raise ModelError(
            f"{name}: the Hub has no {WEIGHT_FILE} of it, and pickled weights, which can run code "
            "when loaded, are refused: save it as safetensors (load with transformers, "
            "save_pretrained) and give that folder",
            uri=name,
        )
    return folder


def _snapshot(name: str, revision: str | None) -> Path:
    logger.info("model download name=%s revision=%s", redact(name), revision or "main")
    return Path(
        huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=ALLOWED_PATTERNS)
    )


def _has_weights(folder: Path) -> bool:
    return (folder / WEIGHT_FILE).is_file() or (folder / WEIGHT_INDEX_FILE).is_file()


def _converted_revision(name: str) -> str | None:
    """Find the pull request that adds the weights of the main branch as safetensors."""
    api = huggingface_hub.HfApi()
    discussions = api.get_repo_discussions(
        name, author=_CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    main = None
    for found in discussions:
        if found.author != _CONVERTER or found.title != _CONVERSION_TITLE:
            continue
        main = main or _pickle_blobs(api, name, "main")
        # An older conversion, of other weights, would write other captions than the main branch.
        if main and main == _pickle_blobs(api, name, f"refs/pr/{found.num}"):
            return f"refs/pr/{found.num}"
    return None


def _pickle_blobs(api: huggingface_hub.HfApi, name: str, revision: str) -> dict[str, str]:
    found = api.get_paths_info(name, _PICKLES, revision=revision)
    return {item.path: item.blob_id for item in found if isinstance(item, huggingface_hub.RepoFile)}


def _explain(name: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name}: the Hub requires that you accept its terms: accept them on the model's page "
            f"and log in with `hf auth login`; or {_OFFLINE_HINT}"
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return (
            f"{name}: neither a local folder nor a model on the Hub (a private one needs "
            f"`hf auth login`): check the name; or {_OFFLINE_HINT}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: no revision {revision!r} on the Hub: check the branch, tag or commit"
    reason = str(error).partition("\n")[0]
    return (
        f"{name}: cannot be downloaded from the Hub ({type(error).__name__}: {reason}): check the "
        f"network and HF_HUB_OFFLINE, and retry; or {_OFFLINE_HINT}"
    )
