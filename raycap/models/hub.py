"""Downloads from the Hugging Face Hub: safetensors, settings and vocabularies, never pickles.

A pickled checkpoint can run code when it is loaded. Many older repositories, including BLIP's, hold
only pickles on their main branch; for those the Hub's converter (the account SFconvertbot) has
opened a pull request with the same weights as safetensors. It is used under the same conditions as
in transformers: that account, an open pull request, and an unchanged pickle. Which one is used is
recorded in the cache, beside the files: what was downloaded once needs no network, and neither does
a cache that was copied to another machine.
"""

import json
import logging
from contextlib import suppress
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from raycap.errors import ModelError
from raycap.models.folders import SAFE_FILES, WEIGHT_FILE, WEIGHT_INDEX_FILE
from raycap.parsing import parse_json
from raycap.storage.address import redact

_CONVERTER = "SFconvertbot"
_CONVERSION_TITLE = "Adding `safetensors` variant of this model"
_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json"]
_RECORD = "raycap-conversion.json"
_WEIGHTS = (WEIGHT_FILE, WEIGHT_INDEX_FILE, "adapter_model.safetensors")
_OFFLINE_HINT = "--model demo works offline, and so does a local folder"

HUB_ERRORS = (
    OSError,
    ValueError,
    errors.HTTPError,  # type: ignore[attr-defined]  # of httpx or httpx2, by the hub's version
    getattr(errors, "XetDownloadError", OSError),  # newer hubs only
)
"""What `huggingface_hub` raises if the Hub refuses or cannot be reached."""

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
        folder = _snapshot(name, revision) if revision else _main(name)
        if revision is None and not _has_weights(folder):
            folder = _converted(name, folder) or folder
    except HUB_ERRORS as error:
        raise ModelError(_explain(redact(name), revision, error), uri=redact(name)) from None
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
        huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(SAFE_FILES))
    )


def _main(name: str) -> Path:
    """Download the main branch; without it, use the only conversion that the cache has."""
    try:
        return _snapshot(name, None)
    except HUB_ERRORS:
        constants = huggingface_hub.constants
        folder = huggingface_hub.file_download.repo_folder_name(repo_id=name, repo_type="model")
        repository = Path(constants.HF_HUB_CACHE) / folder
        cached = _cached_conversion(repository)
        if cached is None or (repository / "refs" / "main").exists():
            raise
        return cached


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _WEIGHTS)


def _converted(name: str, main: Path) -> Path | None:
    """Download the conversion of a repository's main branch; None if there is none.

    Args:
        name: Repository.
        main: Cached snapshot of its main branch.
    """
    # <cache>/models--<owner>--<name>/snapshots/<commit>
    record = main.parents[1] / _RECORD
    commit = _recorded(record, main.name)
    if commit is not None:
        return _snapshot(name, commit)
    try:
        revision = _converted_revision(name)
    except HUB_ERRORS:
        # Downloaded by another program, or by a version of raycap that kept no record.
        cached = _cached_conversion(main.parents[1])
        if cached is None:
            raise
        return cached
    if revision is None:
        return None
    folder = _snapshot(name, revision)
    with suppress(OSError):  # a cache that is only read
        record.write_text(json.dumps({"main": main.name, "converted": folder.name}))
    return folder


def _recorded(record: Path, main: str) -> str | None:
    """Return the commit of the conversion that was used for a commit of the main branch."""
    try:
        found = parse_json(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_known = isinstance(found, dict) and found.get("main") == main
    return str(found["converted"]) if is_known and "converted" in found else None


def _cached_conversion(repository: Path) -> Path | None:
    """Return the snapshot of the only pull request with weights in the cache; None if unclear."""
    commits = {file.read_text().strip() for file in repository.glob("refs/refs/pr/*")}
    folders = [repository / "snapshots" / commit for commit in commits]
    found = [folder for folder in folders if _has_weights(folder)]
    return found[0] if len(found) == 1 else None


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
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return (
            f"{name}: not in this machine's cache of the Hub, and HF_HUB_OFFLINE is set: download "
            f"it once where there is a network, and copy the cache (HF_HOME) here; or "
            f"{_OFFLINE_HINT}"
        )
    return (
        f"{name}: cannot be downloaded from the Hub ({type(error).__name__}: {reason}): check the "
        f"network and HF_HUB_OFFLINE, and retry; or {_OFFLINE_HINT}"
    )
