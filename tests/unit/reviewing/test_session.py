"""A review: edits, undoing, conflicts between reviewers, find and replace, texts beside."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycap import schema
from raycap.config import StorageConfig
from raycap.edits.records import Edit, EditAction
from raycap.edits.writing import EditConflict, EditWriter
from raycap.errors import ConfigError, DatasetError
from raycap.reviewing.replacing import Rule, replaced
from raycap.reviewing.selection import Filter
from raycap.reviewing.session import Change, Session, describe_conflict
from raycap.storage.stores import open_store
from tests.conftest import S3
from tests.support import outputs
from tests.support.outputs import failed, row, write_output
from tests.support.report_samples import score_row, write_sample
from tests.support.reviewed import open_session

output = outputs.output
EVERYTHING = Filter()


@pytest.fixture
def session(output: Callable[..., str]) -> Iterator[Session]:
    """Give a review of three captions and a failed image."""
    with open_session(
        output([row("a", "a cat"), row("b", "a dog")], [row("c"), failed("d")])
    ) as it:
        yield it


def save(session: Session, item: int, action: str, new: str | None = None) -> dict[str, Any]:
    """Do something with an item as it is shown."""
    shown = session.shown([item])[0]
    change = Change(item=item, action=action, old=shown["caption"], new=new, after=shown["version"])
    return session.save(change)


def captions(session: Session) -> list[str | None]:
    return [item["caption"] for item in session.page(EVERYTHING, 0, 10)["items"]]


def test_an_edited_caption_is_shown_and_found_and_is_there_the_next_time(session: Session) -> None:
    saved = save(session, 1, "text", "a good wolf")
    assert saved["item"]["review"] == "edited"
    assert saved["item"]["original"] == "a dog"
    assert saved["item"]["num_words"] == 3
    assert session.page(Filter(text="wolf"), 0, 10)["total"] == 1
    assert session.page(Filter(text="dog"), 0, 10)["total"] == 0
    with open_session(session.output.store.uri) as again:
        (item,) = again.shown([1])
        assert (item["caption"], item["by"], item["review"]) == ("a good wolf", "ada", "edited")


def test_undo_restores_what_was_before(session: Session) -> None:
    before = session.shown([0])
    first = save(session, 0, "text", "first")
    between = session.shown([0])
    second = save(session, 0, "reject")
    assert session.undo(second["undo"])["items"] == [0]
    assert session.shown([0]) == between
    session.undo(first["undo"])
    assert session.shown([0]) == before
    with pytest.raises(ConfigError):
        session.undo(first["undo"])


def test_a_failed_image_can_be_given_a_caption(session: Session) -> None:
    assert session.page(Filter(status="failed"), 0, 10)["total"] == 1
    save(session, 3, "text", "written by hand")
    assert session.page(Filter(status="failed"), 0, 10, anew=True)["total"] == 0
    assert session.page(Filter(status="ok"), 0, 10)["total"] == 4


@pytest.mark.parametrize("action", ["text", "approve", "reject"])
def test_what_another_reviewer_has_changed_is_never_overwritten(
    session: Session, action: str
) -> None:
    shown = session.shown([0])[0]
    with open_session(session.output.store.uri, by="bob") as other:
        save(other, 0, "text", "a tomcat")
    change = Change(item=0, action=action, old=shown["caption"], new="mine", after="")
    with pytest.raises(EditConflict) as refused:
        session.save(change)
    told = describe_conflict(refused.value, session)
    assert (told["by"], told["conflict"]["caption"]) == ("bob", "a tomcat")
    # Having seen it, the reviewer may.
    seen = {"old": "a tomcat", "after": told["conflict"]["version"]}
    saved = session.save(change.model_copy(update=seen))
    assert saved["item"]["caption"] == ("mine" if action == "text" else "a tomcat")


def test_the_edits_of_others_are_shown(session: Session) -> None:
    with open_session(session.output.store.uri, by="bob") as other:
        save(other, 2, "approve")
        done = save(other, 1, "text", "a wolf")
        session.refresh()
        assert [item["by"] for item in session.shown([0, 1, 2])] == ["", "bob", "bob"]
        assert session.counts() == {"approved": 1, "edited": 1, "unreviewed": 2}
        other.undo(done["undo"])
    session.refresh()
    assert session.counts() == {"approved": 1, "unreviewed": 3}


def test_a_review_of_another_image_is_stale(output: Callable[..., str]) -> None:
    uri = output([row("a", "a cat"), row("b", "a dog")])
    edit = Edit(image_id="a", action=EditAction.TEXT, new="of the old image", etag="0-0")
    EditWriter(open_store(uri, StorageConfig()), "bob").save([edit])
    with open_session(uri) as session:
        (item,) = session.page(Filter(state="stale"), 0, 10)["items"]
        assert (item["caption"], item["stale_text"]) == ("a cat", "of the old image")
        save(session, 0, "text", "of the old image")  # confirmed for the new one
        assert session.counts() == {"edited": 1, "unreviewed": 1}


def test_find_and_replace_is_shown_saved_and_undone_as_one(session: Session) -> None:
    shown = session.preview(Filter(text="a"), Rule(find="a ", replacement="the "))
    assert (shown["num_changes"], shown["num_searched"]) == (3, 3)
    assert shown["changes"][0] == {"image_id": "a", "old": "a cat", "new": "the cat"}
    done = session.replace(shown["name"])
    assert captions(session) == ["the cat", "the dog", "the cat on the mat", None]
    with pytest.raises(ConfigError):
        session.replace(shown["name"])  # not twice
    assert session.undo(done["undo"])["num_items"] == 3
    assert captions(session) == ["a cat", "a dog", "a cat on a mat", None]
    assert session.counts() == {"unreviewed": 4}


def test_find_and_replace_changes_only_what_the_filter_shows(session: Session) -> None:
    shown = session.preview(Filter(text="dog"), Rule(find="a ", replacement="the "))
    session.replace(shown["name"])
    assert captions(session) == ["a cat", "the dog", "a cat on a mat", None]


def test_find_and_replace_shows_changes_in_the_order_of_the_page(session: Session) -> None:
    wanted = Filter(sort="num_words", descending=True)
    shown = session.preview(wanted, Rule(find="a ", replacement="the "))
    assert [change["image_id"] for change in shown["changes"]] == ["c", "a", "b"]


def test_find_and_replace_leaves_rejected_captions_rejected(session: Session) -> None:
    rule = Rule(find="a ", replacement="the ")
    save(session, 0, "reject")
    shown = session.preview(EVERYTHING, rule)
    assert (shown["num_changes"], shown["num_rejected"]) == (2, 1)
    session.replace(shown["name"])
    assert captions(session) == ["a cat", "the dog", "the cat on the mat", None]
    assert session.counts() == {"edited": 2, "rejected": 1, "unreviewed": 1}
    # Who asks for rejected captions gets them.
    shown = session.preview(Filter(state="rejected"), rule)
    assert (shown["num_changes"], shown["num_rejected"]) == (1, 0)


def test_find_and_replace_is_refused_if_a_caption_has_changed_since(session: Session) -> None:
    shown = session.preview(EVERYTHING, Rule(find="cat", replacement="lion"))
    with open_session(session.output.store.uri, by="bob") as other:
        save(other, 0, "text", "a tomcat")
    with pytest.raises(EditConflict) as refused:
        session.replace(shown["name"])
    assert describe_conflict(refused.value, session)["num_conflicts"] == 1
    assert captions(session) == ["a tomcat", "a dog", "a cat on a mat", None]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(find="CAT", replacement="lion"), []),
        (Rule(find="CAT", replacement=r"\1", match_case=False), [(0, r"a \1 sat."), (2, r"\1")]),
        (Rule(find="cat", match_case=False), [(0, "a  sat."), (2, None)]),
        (Rule(find="."), [(0, "a cat sat")]),
        (Rule(find=r"(\w+) sat", replacement=r"\1 lay", regex=True), [(0, "a cat lay.")]),
        (Rule(find=r"^A D", replacement="x", regex=True, match_case=False), [(1, "xog")]),
    ],
)
def test_a_rule_finds_text_or_expressions(
    rule: Rule, expected: list[tuple[int, str | None]]
) -> None:
    texts = [(0, "a cat sat."), (1, "a dog"), (2, "Cat"), (3, None)]
    assert list(replaced(rule, texts)) == expected


@pytest.mark.parametrize("find", ["(a", "(a+)+$", "[z-a]"])
def test_a_bad_expression_is_refused(session: Session, find: str) -> None:
    with pytest.raises(ConfigError) as refused:
        session.preview(EVERYTHING, Rule(find=find, regex=True))
    assert refused.value.setting == "find"


def test_a_caption_of_which_nothing_would_be_left_stays(session: Session) -> None:
    shown = session.preview(EVERYTHING, Rule(find="a cat"))
    assert (shown["num_changes"], shown["num_kept"]) == (1, 1)


def test_captions_of_other_outputs_and_scores_are_joined(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a", "a cat"), row("b", "a dog")], [failed("c")])
    store = open_store(str(tmp_path / "second"), StorageConfig())
    other = write_output(store, [row("b", "one dog"), row("z", "none")])
    rows = [
        score_row("a", None, "a cat", ["the cat"]),
        score_row("b", None, "a dog", ["dogs", "2"]),
    ]
    evaluation = write_sample(tmp_path / "evaluation", ["it"], [rows])
    system = replace(evaluation.systems[0], source=uri)
    write_sample(tmp_path / "evaluation", ["it"], [rows], systems=[system])
    with open_session(uri, f"small={other}", tmp_path / "evaluation") as session:
        first, second, third = session.page(EVERYTHING, 0, 10)["items"]
        assert first["beside"] == {"references": ["the cat"]}
        assert second["beside"] == {"small": ["one dog"], "references": ["dogs", "2"]}
        assert third["beside"] == third["scores"] == {}
        assert first["scores"][schema.ROUGE_L] == rows[0][schema.ROUGE_L]
        wanted = Filter(metric=schema.ROUGE_L, max_score=0.2, sort=schema.ROUGE_L)
        assert [item["image_id"] for item in session.page(wanted, 0, 10)["items"]] == ["b"]
        # The score is that of the text, not of the image.
        assert save(session, 0, "text", "a lion")["item"]["scores"] == {}
    with pytest.raises(DatasetError), open_session(other, tmp_path / "evaluation"):
        pass


def test_an_output_in_a_bucket_is_reviewed_by_two(s3: S3) -> None:
    store = open_store(f"{s3.uri}/out", StorageConfig())
    uri = write_output(store, [row("a", "a cat"), row("b", "a dog")])
    with open_session(uri) as session, open_session(uri, by="bob") as other:
        save(session, 0, "text", "a lion")
        save(other, 1, "approve")
        other.refresh()
        assert captions(other) == ["a lion", "a dog"]
        with pytest.raises(EditConflict):
            session.save(Change(item=1, action=EditAction.REJECT, old="a dog"))
