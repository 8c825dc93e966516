"""`raycap.read` gives captions as reviewers left them, as exports do."""

from typing import Any

import pytest

import raycap
from raycap import schema
from raycap.config import StorageConfig
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditWriter
from raycap.storage.stores import open_store
from tests.support import outputs

output = outputs.output
two_parts = outputs.two_parts


@pytest.fixture
def edited(two_parts: str) -> str:
    """Correct one caption, write that of a failed image, approve one."""
    writer = EditWriter(open_store(two_parts, StorageConfig()), by="ann")
    before = {row["image_id"]: row["caption"] for row in raycap.read(two_parts)}

    def edit(image_id: str, action: EditAction, new: str | None = None) -> Edit:
        return Edit(
            image_id=image_id, action=action, old=before[image_id], new=new, etag="1-2", after=""
        )

    writer.save(
        [
            edit("a/1.jpg", EditAction.TEXT, "two cats"),
            edit("a/2.jpg", EditAction.TEXT, "a dog that I saw"),
            edit("b/3.jpg", EditAction.APPROVE),
        ]
    )
    return two_parts


def captions(rows: Any) -> dict[str, str]:
    return {row["image_id"]: row["caption"] for row in rows}


def test_edits_are_applied_and_marked(edited: str) -> None:
    rows = raycap.read(edited)
    assert rows["a/1.jpg"]["caption"] == "two cats"
    assert rows["a/1.jpg"][schema.NUM_WORDS] == 2
    assert rows["a/2.jpg"]["status"] == "ok"
    marks = {row["image_id"]: (row["edited"], row["review"]) for row in rows}
    assert marks["a/2.jpg"] == (True, "edited")
    assert marks["b/3.jpg"] == (False, "approved")
    assert marks["b/ü 4.png"] == (False, None)
    assert len(rows) == 4
    assert raycap.read(edited, columns=["num_words"]).to_arrow()["num_words"].to_pylist()[0] == 2


def test_edits_can_be_ignored(edited: str) -> None:
    rows = raycap.read(edited, edits="ignore")
    assert rows["a/1.jpg"]["caption"] == "a cat on a mat"
    assert rows.columns == schema.CAPTIONS.names


def test_only_what_reviewers_vouch_for(edited: str) -> None:
    rows = raycap.read(edited, edits="only")
    assert [*captions(rows)] == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]
    assert len(rows) == 3
    assert "b/ü 4.png" not in rows
    assert [*captions(rows.to_arrow().to_pylist())] == [*captions(rows)]


def test_a_condition_sees_the_captions_of_reviewers(edited: str) -> None:
    rows = raycap.read(edited, columns=["image_id"], where="edited AND caption LIKE '%dog%'")
    assert list(rows) == [{"image_id": "a/2.jpg"}]
    assert raycap.read(edited, where="status = 'failed'").head() == []
