"""Upload of a dataset to the Hugging Face Hub.

Files that the repository has already are not sent: their digests are compared first. Each commit
holds a few files, so that an interrupted upload continues where it stopped. The card comes last.
The token is the one that `huggingface_hub` finds; raycap never sees it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, errors

from raycap.config import Existing
from raycap.errors import ConfigError, RaycapError, StorageError
from raycap.exporting.destination import few
from raycap.exporting.hf_card import CARD, Card, CardState, read_card
from raycap.exporting.jobs import HubOptions
from raycap.models.hub import HUB_ERRORS
from raycap.results.captioning import Pushed
from raycap.storage.address import redact_text
from raycap.storage.base import Store
from raycap.storage.local import LocalStore
from raycap.storage.parallel import ordered_map

_REPO_TYPE = "dataset"
_COMMIT_FILES = 50
_HASH_THREADS = 2
_BLOCK_BYTES = 1_048_576
_OF_THE_HUB = ".gitattributes"
_NAME = "user/name"
# Of uploads, which it wraps in RuntimeError, as does the package that transfers large files.
_ERRORS = (*HUB_ERRORS, RuntimeError)

T = TypeVar("T")

logger = logging.getLogger(__name__)


def open_repository(
    options: HubOptions, store: Store, run: str, existing: Existing
) -> "Repository | None":
    """Create the repository to push to, unless it exists; None if nothing is to be pushed.

    Args:
        options: The repository.
        store: The folder with the dataset.
        run: Digest of the fingerprint of the run.
        existing: `overwrite`: replace what the repository holds of other runs, and edited cards.

    Raises:
        ConfigError: the name is wrong, the folder is not local, or the repository holds files of
            somebody else.
        StorageError: the Hub refuses, or cannot be reached.
    """
    if options.push is None:
        return None
    if not isinstance(store, LocalStore):
        raise ConfigError(
            f"{store.uri}: --push uploads from a local folder: export to one", uri=store.uri
        )
    repository = Repository(options.push, Path(store.uri), run, existing)
    repository.open(is_public=options.public)
    return repository


class Repository:
    """A dataset repository on the Hub, which one folder is pushed to."""

    def __init__(self, name: str, folder: Path, run: str, existing: Existing) -> None:
        self.name = name
        self._folder = folder
        self._run = run
        self._replaces = existing is Existing.OVERWRITE
        self._api = HfApi()

    def open(self, *, is_public: bool) -> None:
        """Create it unless it exists, and refuse one that holds files of somebody else.

        Raises:
            ConfigError: its name is wrong, or it holds other files.
            StorageError: the Hub refuses, or cannot be reached.
        """
        if self.name.count("/") != 1:
            raise _wrong_name(self.name)
        self._ask(self._create, is_public=is_public)
        self._check(self._ask(self._files))

    def push(self, keys: Sequence[str], num_rows: int) -> Pushed:
        """Upload files of the folder, and then its card.

        Args:
            keys: The files without the card.
            num_rows: Images, for the message of the commits.

        Raises:
            ConfigError: the repository has got other files in the meantime.
            StorageError: the Hub refuses, or cannot be reached.
        """
        files = self._ask(self._files)
        card = self._check(files)
        outdated = self._outdated(keys, files)
        last: list[Any] = [CommitOperationDelete(key) for key in _other_shards(files, keys)]
        notes: tuple[str, ...] = ()
        if card.state is CardState.EDITED and not self._replaces:
            notes = (_CARD_KEPT,)
        elif self._outdated([CARD], files):
            last.append(self._addition(CARD))
        message = f"Captions of {num_rows:,} images by raycap"
        for first in range(0, len(outdated), _COMMIT_FILES):
            some = outdated[first : first + _COMMIT_FILES]
            self._ask(self._commit, [self._addition(key) for key in some], message)
        if last:
            self._ask(self._commit, last, message)
        sent = [
            *outdated,
            *(one.path_in_repo for one in last if isinstance(one, CommitOperationAdd)),
        ]
        return Pushed(
            repository=self.name,
            url=f"{self._api.endpoint}/datasets/{self.name}",
            num_files=len(sent),
            num_bytes=sum((self._folder / key).stat().st_size for key in sent),
            notes=notes,
        )

    def _create(self, *, is_public: bool) -> None:
        # An organization may have its own rule, which None would leave in force.
        self._api.create_repo(self.name, repo_type=_REPO_TYPE, private=not is_public, exist_ok=True)

    def _files(self) -> dict[str, RepoFile]:
        found = self._api.list_repo_tree(self.name, recursive=True, repo_type=_REPO_TYPE)
        return {one.path: one for one in found if isinstance(one, RepoFile)}

    def _check(self, files: dict[str, RepoFile]) -> Card:
        """Return the repository's card. Raises ConfigError if its files are not of this run."""
        card = self._ask(self._card) if CARD in files else Card(state=CardState.NONE, run=self._run)
        others = sorted(files.keys() - {_OF_THE_HUB})
        is_own = card.run == self._run and (CARD in files or all(map(_is_part, others)))
        if others and not is_own and not self._replaces:
            raise ConfigError(
                f"{self.name}: the repository has files that are not of this run ({few(others)}); "
                "push to another one, or replace them with --existing overwrite",
                setting="push",
            )
        return card

    def _card(self) -> Card:
        with TemporaryDirectory() as folder:
            path = self._api.hf_hub_download(
                self.name, CARD, repo_type=_REPO_TYPE, local_dir=folder
            )
            return read_card(Path(path).read_text(encoding="utf-8", errors="replace"))

    def _outdated(self, keys: Sequence[str], files: dict[str, RepoFile]) -> list[str]:
        """Return the keys of files that the repository lacks, or has with other content."""

        def is_outdated(key: str) -> bool:
            return key not in files or not _is_same(self._folder / key, files[key])

        found = ordered_map(is_outdated, keys, _HASH_THREADS)
        return [key for key, outdated in zip(keys, found, strict=True) if outdated]

    def _addition(self, key: str) -> CommitOperationAdd:
        return CommitOperationAdd(path_in_repo=key, path_or_fileobj=str(self._folder / key))

    def _commit(self, operations: list[Any], message: str) -> None:
        logger.info("push repository=%s files=%d", self.name, len(operations))
        self._api.create_commit(self.name, operations, commit_message=message, repo_type=_REPO_TYPE)

    def _ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        try:
            return call(*arguments, **options)
        except _ERRORS as error:
            raise _explained(self.name, error) from error


_CARD_KEPT = (
    f"{CARD} has been edited on the Hub, and is kept there; --existing overwrite replaces it"
)


def _is_part(key: str) -> bool:
    return key.startswith(("data/part-", "raycap/"))


def _other_shards(files: dict[str, RepoFile], keys: Sequence[str]) -> list[str]:
    """Return the files of the repository that would be taken for files of this dataset."""
    return [key for key in files if key.startswith("data/part-") and key not in keys]


def _is_same(path: Path, there: RepoFile) -> bool:
    """Whether a file has the content that the Hub knows the digest of."""
    num_bytes = path.stat().st_size
    if num_bytes != there.size:
        return False
    if there.lfs is not None:
        return _digest(path, hashlib.sha256()) == there.lfs.sha256
    # Git's name of a small file.
    begun = hashlib.sha1(f"blob {num_bytes}\0".encode(), usedforsecurity=False)
    return _digest(path, begun) == there.blob_id


def _digest(path: Path, digest: Any) -> str:
    for block in _blocks(path):
        digest.update(block)
    return str(digest.hexdigest())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _wrong_name(name: str) -> ConfigError:
    return ConfigError(f"--push {name}: is no name of a repository: give {_NAME}", setting="push")


def _explained(name: str, error: Exception) -> RaycapError:
    """Return the error that says in one line what to do."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, _ERRORS):
        error = error.__cause__
    if isinstance(error, errors.HFValidationError):
        return _wrong_name(name)
    status = getattr(getattr(error, "response", None), "status_code", None)
    uri = f"hf://datasets/{name}"
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return StorageError(f"{name}: HF_HUB_OFFLINE is set: unset it to push", uri=uri)
    if status in _REFUSALS:
        return StorageError(f"{name}: {_REFUSALS[status]}", uri=uri)
    reason = redact_text(str(error).partition("\n")[0])
    return StorageError(
        f"{name}: cannot be pushed to the Hub ({type(error).__name__}: {reason}); the same command "
        "continues",
        uri=uri,
    )


_REFUSALS = {
    401: "the Hub does not accept who you are: log in with `hf auth login`, or set HF_TOKEN",
    403: "the Hub denies writing: your token needs the permission to write to this repository",
    404: "the Hub knows no such user, organization or repository, or hides it from you",
}
