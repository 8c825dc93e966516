"""Pushing a dataset to the Hub, which is a small server here that answers like it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raycap.errors import ConfigError, StorageError
from raycap.exporting import hf_push
from raycap.exporting.export import export
from raycap.results.captioning import Pushed
from raycap.storage.local import etag_of
from tests.support import outputs
from tests.support.hub_datasets import GIT_ATTRIBUTES, TOKEN, DatasetHub, dataset_hub
from tests.support.outputs import row

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output

# How huggingface_hub calls its HTTP library where it may not use Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "me/photos"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DatasetHub]:
    with dataset_hub(monkeypatch, tmp_path) as served:
        yield served


@pytest.fixture
def captions(output: Callable[..., str], tmp_path: Path, make_jpeg: Callable[..., bytes]) -> str:
    """Write the captions of three images in three parts; give the address."""
    parts = []
    for n in range(3):
        path = tmp_path / "photos" / f"{n}.jpg"
        make_jpeg(path, seed=n)
        parts.append([row(path.name, source_uri=str(path), etag=etag_of(path.stat()))])
    return output(*parts)


def push(captions: str, folder: Path, **options: Any) -> Pushed:
    found = export(captions, folder, to="hf", push=NAME, **options).pushed
    assert found is not None
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_push_uploads_the_folder_and_the_next_sends_nothing(
    hub: DatasetHub, captions: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "raycap")
    first = push(captions, tmp_path / "x")
    local = content(tmp_path / "x")
    assert hub.repositories[NAME] == {".gitattributes": GIT_ATTRIBUTES, **local}
    assert hub.private[NAME]
    assert hub.commits[-1] == ["README.md"]
    assert (first.num_files, first.num_bytes) == (len(local), hub.num_content_bytes)
    assert hub.tokens - {""} == {TOKEN}
    assert TOKEN not in caplog.text
    num_commits, hub.num_content_bytes = len(hub.commits), 0
    second = push(captions, tmp_path / "x")
    assert (second.num_files, second.num_bytes) == (0, 0)
    assert (hub.num_content_bytes, len(hub.commits)) == (0, num_commits)


def test_a_push_from_another_machine_sends_nothing_again(
    hub: DatasetHub, captions: str, tmp_path: Path
) -> None:
    push(captions, tmp_path / "x")
    hub.num_content_bytes = 0
    push(captions, tmp_path / "y")
    assert hub.num_content_bytes == 0


def test_an_interrupted_push_continues(
    hub: DatasetHub, captions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_push, "_COMMIT_FILES", 1)
    hub.fails_after = 2
    with pytest.raises(StorageError) as caught:
        push(captions, tmp_path / "x")
    assert caught.value.uri == f"hf://datasets/{NAME}"
    assert set(hub.repositories[NAME]) == {
        ".gitattributes",
        "data/part-000000.parquet",
        "data/part-000001.parquet",
    }
    hub.fails_after = None
    sent = hub.num_content_bytes
    push(captions, tmp_path / "x")
    local = content(tmp_path / "x")
    assert hub.repositories[NAME] == {".gitattributes": GIT_ATTRIBUTES, **local}
    # The third file was uploaded before its commit was refused.
    assert hub.num_content_bytes - sent == sum(
        len(data) for key, data in local.items() if not key.startswith("data/")
    )


def test_only_public_makes_a_new_repository_public(
    hub: DatasetHub, captions: str, tmp_path: Path
) -> None:
    push(captions, tmp_path / "x", public=True)
    assert not hub.private[NAME]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_one_line_before_anything_is_written(
    status: int, hub: DatasetHub, captions: str, tmp_path: Path
) -> None:
    hub.refusals["/api"] = status
    with pytest.raises(StorageError) as caught:
        push(captions, tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert not (tmp_path / "x" / "data").exists()


def test_the_repository_of_somebody_else_is_replaced_only_if_asked(
    hub: DatasetHub, captions: str, tmp_path: Path
) -> None:
    theirs = {"README.md": b"theirs", "data/part-000009.parquet": b"PAR1", "notes.txt": b"x"}
    hub.repositories[NAME] = dict(theirs)
    with pytest.raises(ConfigError) as caught:
        push(captions, tmp_path / "x")
    assert caught.value.setting == "push"
    assert hub.repositories[NAME] == theirs
    push(captions, tmp_path / "x", existing="overwrite")
    assert hub.repositories[NAME] == {"notes.txt": b"x", **content(tmp_path / "x")}


def test_a_card_that_was_edited_on_the_hub_is_kept(
    hub: DatasetHub, captions: str, tmp_path: Path
) -> None:
    push(captions, tmp_path / "x")
    edited = hub.repositories[NAME]["README.md"].replace(b"# Captions by raycap", b"# Mine")
    hub.repositories[NAME]["README.md"] = edited
    assert push(captions, tmp_path / "x").notes
    assert hub.repositories[NAME]["README.md"] == edited
    push(captions, tmp_path / "x", existing="overwrite")
    assert hub.repositories[NAME]["README.md"] == content(tmp_path / "x")["README.md"]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["photos", "me/my/photos", "me/--x", ""])
def test_a_wrong_name_is_refused(name: str, captions: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        export(captions, tmp_path / "x", to="hf", push=name)
    assert caught.value.setting == "push"
