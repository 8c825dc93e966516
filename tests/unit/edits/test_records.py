"""Edits as lines of JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycap.edits.records import Edit, EditAction, check_edit, decode_edits, encode_edits
from raycap.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip), st.none() | TEXTS), max_size=3))
def test_edits_survive_their_file(found: list[tuple[str, str, str | None]]) -> None:
    edits = [
        Edit(image_id=image_id, action=EditAction.TEXT, new=new, old=old, prompt=old)
        for image_id, new, old in found
    ]
    assert decode_edits(encode_edits(edits)) == edits


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\n",
        b'{"image_id": "a.jpg"}\n',
        b'{"image_id": "a.jpg", "action": "erase"}\n',
        b'{"image_id": "a.jpg", "action": "text"}\n',
        b'{"image_id": "a.jpg", "action": "appr',
        b'{"image_id": "a.jpg", "action": "approve"}',
        b"[]\n",
    ],
)
def test_damaged_lines_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="line"):
        decode_edits(data)


@pytest.mark.parametrize("text", [None, "", " \n", "half \ud800", "null \0"])
def test_a_text_that_no_table_can_hold_is_refused(text: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        check_edit(Edit(image_id="a.jpg", action=EditAction.TEXT, new=text))
    assert caught.value.setting == "edits"
