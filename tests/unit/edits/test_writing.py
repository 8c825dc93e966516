"""Saving edits: atomically, by several reviewers at once, on folders and buckets."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raycap.config import StorageConfig
from raycap.edits.history import History
from raycap.edits.log import EDITS, PACK_SIZE, EditLog, edit_key
from raycap.edits.records import Edit, EditAction, Review
from raycap.edits.writing import EditConflict, EditWriter, new_batch
from raycap.errors import ConfigError, DatasetError, StorageError
from raycap.storage.base import KEY, Store
from raycap.storage.stores import open_store
from tests.conftest import S3


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Give an empty output."""
    if request.param == "folder":
        return open_store(str(tmp_path / "output"), StorageConfig())
    s3: S3 = request.getfixturevalue("s3")
    return open_store(f"{s3.uri}/output", StorageConfig())


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """Give an empty output in a folder."""
    return open_store(str(tmp_path / "output"), StorageConfig())


def text(image_id: str, old: str | None, new: str, batch: str | None = None) -> Edit:
    return Edit(
        image_id=image_id, action=EditAction.TEXT, old=old, new=new, digest="d", batch=batch
    )


def reread(store: Store) -> History:
    return History(EditLog(store).read_new())


def keys(store: Store) -> list[str]:
    return [key for page in store.list(EDITS) for key in page[KEY].to_pylist()]


def test_what_is_saved_is_read_by_others(store: Store) -> None:
    writer = EditWriter(store, by="ann")
    other = EditWriter(store, by="bob")
    saved = writer.save([text("a.jpg", "a cat", "a tabby cat"), text("b.jpg", None, "a dog")])
    assert [edit.by for edit in saved] == ["ann", "ann"]
    assert keys(store) == [edit_key(1)]
    assert other.refresh() == saved
    assert other.refresh() == []
    more = writer.save([text("c.jpg", None, "a bird")])
    other.save([text("d.jpg", None, "a fish")])
    assert other.refresh() == more  # though `save` has read it
    assert reread(store).state("a.jpg").text == "a tabby cat"
    assert datetime.fromisoformat(saved[0].at) <= datetime.now(UTC)


def test_a_text_that_somebody_else_has_replaced_is_not_overwritten(store: Store) -> None:
    ann, bob = EditWriter(store, by="ann"), EditWriter(store, by="bob")
    ann.save([text("a.jpg", "a cat", "ann's")])
    with pytest.raises(EditConflict) as caught:
        bob.save([text("b.jpg", "a dog", "bob's dog"), text("a.jpg", "a cat", "bob's")])
    assert (caught.value.present.text, caught.value.present.by) == ("ann's", "ann")
    assert caught.value.uri == store.uri
    assert reread(store).state("b.jpg").last == ""  # all or nothing
    bob.save([text("a.jpg", "ann's", "bob's")])
    assert reread(store).state("a.jpg").text == "bob's"


def test_a_review_that_was_not_seen_is_a_conflict_where_the_reviewer_says_what_was(
    folder: Store,
) -> None:
    ann, bob = EditWriter(folder, by="ann"), EditWriter(folder, by="bob")
    approve = Edit(image_id="a.jpg", action=EditAction.APPROVE, old="a cat", after="")
    [saved] = ann.save([Edit(image_id="a.jpg", action=EditAction.REJECT, old="a cat")])
    with pytest.raises(EditConflict) as caught:
        bob.save([approve])
    assert caught.value.present.review == Review.REJECTED
    bob.save([Edit(image_id="a.jpg", action=EditAction.APPROVE, old="a cat", after=saved.edit_id)])


def test_a_text_about_another_version_of_the_image_is_no_conflict(folder: Store) -> None:
    writer = EditWriter(folder, by="ann")
    writer.save([text("a.jpg", "a cat", "a tabby cat")])
    changed = Edit(
        image_id="a.jpg", action=EditAction.TEXT, old="a dog", new="a big dog", digest="e"
    )
    writer.save([changed])
    assert reread(folder).state("a.jpg").text == "a big dog"


def test_reviewers_at_once_lose_nothing_and_conflict_at_most_once_per_caption(
    store: Store,
) -> None:
    num_each = 8
    conflicts: list[str] = []

    def review(name: str) -> None:
        writer = EditWriter(store, by=name)
        for number in range(num_each):
            writer.save([text(f"{name}-{number}.jpg", None, "own")])
            try:
                writer.save([text(f"shared-{number}.jpg", "old", f"by {name}")])
            except EditConflict as error:
                conflicts.append(error.conflicts[0][0].image_id)

    threads = [threading.Thread(target=review, args=(name,)) for name in ("ann", "bob", "cy")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = reread(store)
    own = [key for key in history.keys if not key[1].startswith("shared")]
    assert len(own) == 3 * num_each
    for number in range(num_each):
        image_id = f"shared-{number}.jpg"
        assert len(history.of(image_id)) == 1  # the others were refused, not overwritten
        assert conflicts.count(image_id) == 2


def test_an_edit_and_a_batch_can_be_undone_and_that_too(store: Store) -> None:
    writer = EditWriter(store, by="ann")
    batch = new_batch()
    [first] = writer.save([text("a.jpg", "a cat", "one")])
    writer.save([text(name, "one", "two", batch=batch) for name in ("a.jpg", "b.jpg")])
    [undo] = writer.undo(batch)
    assert reread(store).state("a.jpg").text == "one"
    assert reread(store).state("b.jpg").last == ""
    writer.undo(undo.edit_id)
    assert reread(store).state("b.jpg").text == "two"
    writer.undo(first.edit_id)
    assert reread(store).state("a.jpg").text == "two"  # the later edit remains
    with pytest.raises(ConfigError, match="undone already"):
        writer.undo(first.edit_id)
    with pytest.raises(ConfigError, match="no edit or batch"):
        writer.undo("000000099-000001")


def test_what_a_reviewer_did_since_a_time_is_undone_at_once(folder: Store) -> None:
    ann, bob = EditWriter(folder, by="ann"), EditWriter(folder, by="bob")
    ann.save([text("a.jpg", "a cat", "ann's")])
    bob.save([text("b.jpg", "a cat", "bob's")])
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert bob.undo_since("ann", tomorrow) == []
    undone = bob.undo_since("ann", tomorrow - timedelta(days=2))
    assert [edit.image_id for edit in undone] == ["a.jpg"]
    assert reread(folder).state("a.jpg").last == ""
    assert reread(folder).state("b.jpg").text == "bob's"
    assert undone[0].batch is not None
    bob.undo(undone[0].batch)
    assert reread(folder).state("a.jpg").text == "ann's"


def test_captions_are_corrected_while_a_run_holds_the_output(store: Store) -> None:
    with store.lock("lock.json") as held:
        held.store.write("captions/part-000000.parquet", b"x")
        EditWriter(store, by="ann").save([text("a.jpg", None, "text")])
        held.store.write("captions/part-000001.parquet", b"x")
        held.ensure()
    assert reread(store).state("a.jpg").text == "text"


def test_two_edits_of_a_caption_at_once_and_an_empty_name_are_refused(folder: Store) -> None:
    writer = EditWriter(folder, by="ann")
    with pytest.raises(ConfigError):
        writer.save([text("a.jpg", None, "one"), text("a.jpg", None, "two")])
    with pytest.raises(ConfigError) as caught:
        EditWriter(folder, by=" ")
    assert caught.value.setting == "by"
    assert keys(folder) == []


def damage_json(path: Path) -> str:
    file = path / edit_key(1)
    file.write_bytes(file.read_bytes()[:-9])
    return str(file)


def add_foreign(path: Path) -> str:
    file = path / EDITS / "notes.txt"
    file.write_text("hello")
    return str(file)


def lose_first(path: Path) -> str:
    (path / edit_key(1)).unlink()
    return str(path / edit_key(1))


def swap(path: Path) -> str:
    (path / edit_key(1)).write_bytes((path / edit_key(2)).read_bytes())
    return str(path / edit_key(1))


def empty_first(path: Path) -> str:
    (path / edit_key(1)).write_bytes(b"")
    return str(path / edit_key(1))


@pytest.mark.parametrize("harm", [damage_json, add_foreign, lose_first, swap, empty_first])
def test_damaged_missing_and_foreign_files_are_named(
    folder: Store, harm: Callable[[Path], str]
) -> None:
    writer = EditWriter(folder, by="ann")
    for name in ("a.jpg", "b.jpg"):
        writer.save([text(name, None, "text")])
    address = harm(Path(folder.uri))
    with pytest.raises(DatasetError) as caught:
        reread(folder)
    assert caught.value.uri == address
    assert "\n" not in str(caught.value)


def test_temporary_and_hidden_files_are_passed_over(folder: Store) -> None:
    EditWriter(folder, by="ann").save([text("a.jpg", None, "text")])
    (Path(folder.uri) / EDITS / ".DS_Store").write_bytes(b"x")
    (Path(folder.uri) / EDITS / ".0123.raycap-tmp").write_bytes(b"x")
    assert len(reread(folder)) == 1


def test_a_file_that_is_being_written_is_waited_for_and_never_replaced(folder: Store) -> None:
    """Without hard links, a file exists empty for a moment."""
    writer = EditWriter(folder, by="ann")
    writer.save([text("a.jpg", None, "text")])
    file = Path(folder.uri) / edit_key(2)
    file.write_bytes(b"")
    assert len(reread(folder)) == 1
    with pytest.raises(StorageError) as caught:
        writer.save([text("b.jpg", None, "text")])
    assert caught.value.uri == str(file)
    assert file.read_bytes() == b""
    file.unlink()
    assert writer.save([text("b.jpg", None, "text")])[0].edit_id.startswith("000000002")


def test_a_thousand_savings_are_read_from_one_file(folder: Store) -> None:
    writer = EditWriter(folder, by="ann")
    line = {
        "image_id": "a.jpg",
        "action": "approve",
        "by": "ann",
        "at": "2026-01-01T00:00:00+00:00",
    }
    path = Path(folder.uri) / EDITS
    path.mkdir(parents=True)
    for number in range(1, PACK_SIZE + 1):
        record = {"edit_id": f"{number:09d}-000001", **line}
        (path / f"{number:09d}.jsonl").write_text(json.dumps(record) + "\n")
    writer.save([text("b.jpg", None, "text")])
    pack = path / f"{1:09d}-{PACK_SIZE:09d}.jsonl"
    assert pack.read_bytes().count(b"\n") == PACK_SIZE
    history = reread(folder)
    assert len(history) == PACK_SIZE + 1
    for number in range(1, PACK_SIZE + 1):  # the pack alone will do
        (path / f"{number:09d}.jsonl").unlink()
    assert list(reread(folder)) == list(history)
    assert EditWriter(folder, by="bob").save([text("c.jpg", None, "x")])[0].edit_id == (
        f"{PACK_SIZE + 2:09d}-000001"
    )
