"""What a caption is after several edits, in any order of reading, and with some undone."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from raycap.edits.history import History
from raycap.edits.log import edit_id
from raycap.edits.records import Edit, EditAction, EditState, Review

TEXT, APPROVE, REJECT, CLEAR, UNDO = EditAction


def edit(number: int, action: EditAction, **fields: str | None) -> Edit:
    return Edit(
        **{
            "edit_id": edit_id(number, 1),
            "image_id": "a.jpg",
            "by": "ann",
            "digest": "d1",
            "action": action,
            "new": f"text {number}" if action == TEXT else None,
            **fields,
        }  # type: ignore[arg-type]
    )


def undoing(number: int, of: str, **fields: str) -> Edit:
    return edit(number, UNDO, undoes=of, digest=None, **fields)


@st.composite
def histories(draw: st.DrawFn) -> list[Edit]:
    """Edits of two captions and two versions of their images; some undo others or a batch."""
    edits: list[Edit] = []
    for number in range(1, draw(st.integers(1, 9)) + 1):
        action = draw(st.sampled_from(EditAction))
        batch = draw(st.sampled_from([None, None, "batch-1", "batch-2"]))
        names = [one.edit_id for one in edits] + [one.batch for one in edits if one.batch]
        if action == UNDO and names:
            edits.append(undoing(number, str(draw(st.sampled_from(names)))))
            continue
        action = APPROVE if action == UNDO else action
        image_id = draw(st.sampled_from(["a.jpg", "b.jpg"]))
        digest = draw(st.sampled_from(["d1", "d2"]))
        edits.append(edit(number, action, image_id=image_id, digest=digest, batch=batch))
    return edits


def states(edits: list[Edit]) -> dict[tuple[str | None, str], EditState]:
    return {(state.prompt, state.image_id): state for state in History(edits).states()}


@given(st.data(), histories())
def test_the_state_does_not_depend_on_the_order_in_which_edits_are_read(
    data: st.DataObject, edits: list[Edit]
) -> None:
    shuffled = data.draw(st.permutations(edits))
    assert states(shuffled) == states(edits)
    piecewise = History()
    for one in shuffled:
        piecewise.add([one])
    assert {(s.prompt, s.image_id): s for s in piecewise.states()} == states(edits)


@given(st.data(), histories())
def test_undoing_is_as_if_the_edit_had_never_been_made(
    data: st.DataObject, edits: list[Edit]
) -> None:
    undone = data.draw(st.sampled_from([one for one in edits if one.action != UNDO] or edits))
    undo = undoing(len(edits) + 1, undone.edit_id)
    without = [one for one in edits if one is not undone and one.undoes != undone.edit_id]
    if undone.action != UNDO:
        assert states([*edits, undo]) == states(without)
    again = undoing(len(edits) + 2, undo.edit_id)
    assert states([*edits, undo, again]) == states(edits)


@given(histories())
def test_undoing_a_batch_undoes_all_its_edits(edits: list[Edit]) -> None:
    undo = undoing(len(edits) + 1, "batch-1")
    others = [one for one in edits if one.batch != "batch-1" and one.undoes != "batch-1"]
    assert states([*edits, undo]) == states(others)


def test_the_last_text_stands_and_a_review_is_of_it() -> None:
    edits = [edit(1, APPROVE, old="a cat"), edit(2, TEXT), edit(3, TEXT)]
    state = History(edits).state("a.jpg")
    assert (state.text, state.review, state.last) == ("text 3", Review.EDITED, edit_id(3, 1))
    state = History([*edits, edit(4, REJECT, old="text 3")]).state("a.jpg")
    assert (state.text, state.review, state.seen) == ("text 3", Review.REJECTED, None)


def test_clearing_returns_to_the_caption_of_the_run() -> None:
    state = History([edit(1, TEXT), edit(2, CLEAR)]).state("a.jpg")
    assert (state.text, state.review) == (None, None)
    assert state.last == edit_id(2, 1)


def test_a_text_is_not_taken_over_to_another_image() -> None:
    state = History([edit(1, TEXT), edit(2, APPROVE, digest="d2", old="a dog")]).state("a.jpg")
    assert (state.text, state.review, state.seen) == (None, Review.APPROVED, "a dog")
    assert not state.is_stale(digest="d2", etag=None, caption="a dog")


def test_prompts_have_states_of_their_own() -> None:
    history = History([edit(1, TEXT, prompt="short"), edit(2, APPROVE, prompt="long", old="x")])
    assert history.state("a.jpg", "short").text == "text 1"
    assert history.state("a.jpg", "long").text is None
    assert history.state("a.jpg").last == ""


def test_a_state_is_stale_where_the_image_or_the_reviewed_caption_has_changed() -> None:
    text = History([edit(1, TEXT)]).state("a.jpg")
    assert not text.is_stale(digest="d1", etag="e2", caption="whatever the run says now")
    assert text.is_stale(digest="d2", etag=None, caption="a cat")
    approved = History([edit(1, APPROVE, old="a cat")]).state("a.jpg")
    assert not approved.is_stale(digest="d1", etag=None, caption="a cat")
    assert approved.is_stale(digest="d1", etag=None, caption="a dog")


def test_an_etag_decides_where_a_digest_is_missing() -> None:
    state = replace(History([edit(1, TEXT, digest=None)]).state("a.jpg"), etag="e1")
    assert not state.is_stale(digest="d1", etag="e1", caption=None)
    assert state.is_stale(digest="d1", etag="e2", caption=None)
    assert not state.is_stale(digest="d1", etag=None, caption=None)


def test_counts_are_those_of_captions() -> None:
    edits = [edit(1, TEXT), edit(2, APPROVE, image_id="b.jpg"), edit(3, REJECT, image_id="c.jpg")]
    history = History([*edits, undoing(4, edits[2].edit_id)])
    assert history.counts() == {Review.EDITED: 1, Review.APPROVED: 1}
    assert len(history) == 4
