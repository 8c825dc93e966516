"""Selections: what a filter finds and in which order, against a search row by row."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycap import schema
from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.reviewing.selection import Filter, Selections
from raycap.reviewing.session import Change, Session
from raycap.storage.stores import open_store
from tests.support import outputs
from tests.support.outputs import failed, row, write_output
from tests.support.reviewed import open_session

output = outputs.output

CAPTIONS = ["A cat on a mat", "two dogs", "ein Bär im Wald", "", "a CAT and a dog", "100% cat_food"]


def rows() -> list[dict[str, Any]]:
    """Rows of every kind."""
    made = [
        row(
            f"{'abc'[place % 3]}/{place:02d}.jpg",
            CAPTIONS[place % len(CAPTIONS)],
            **{
                schema.LOGPROB: [-0.5, None, -1.5, math.nan, -0.1][place % 5],
                schema.FLAG: [None, None, "truncated", "repeated"][place % 4],
                schema.FINISH: [None, "stop", "length"][place % 3],
            },
        )
        for place in range(30)
    ]
    made += [failed(f"d/{place}.jpg") | {schema.ERROR_CODE: "empty"} for place in range(2)]
    return [*made, failed("e/1.jpg")]


ROWS = sorted(rows(), key=lambda item: item[schema.IMAGE_ID])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("selections")
    store = open_store(str(folder / "output"), StorageConfig())
    with open_session(write_output(store, ROWS[:13], ROWS[13:])) as session:
        for item, action in ((2, "approve"), (5, "reject"), (7, "text")):
            shown = session.shown([item])[0]
            new = "A Cat, rewritten by hand" if action == "text" else None
            session.save(Change(item=item, action=action, old=shown["caption"], new=new))
        yield session


TEXT = {7: "A Cat, rewritten by hand"}
STATE = {2: "approved", 5: "rejected", 7: "edited"}


def caption_of(item: int) -> str | None:
    found: str | None = TEXT.get(item, ROWS[item][schema.CAPTION])
    return found


def words_of(item: int) -> int | None:
    found: int | None = 5 if item in TEXT else ROWS[item][schema.NUM_WORDS]
    return found


def within(value: float | None, low: float | None, high: float | None) -> bool:
    if low is None and high is None:
        return True
    # In DuckDB as in Postgres, not a number is greater than any number.
    if value is None:
        return False
    value = math.inf if math.isnan(value) else value
    return (low is None or value >= low) and (high is None or value <= high)


def is_chosen(item: int, wanted: Filter) -> bool:
    of, caption = ROWS[item], caption_of(item)
    searched = f"{caption or ''}\n{of[schema.IMAGE_ID]}".lower()
    status = {
        "": True,
        "ok": caption is not None,
        "failed": caption is None,
    }.get(wanted.status, caption is None and of[schema.ERROR_CODE] == wanted.status)
    flag = of.get(schema.FLAG)
    return all(
        [
            all(word in searched for word in wanted.text.lower().split()),
            wanted.state in (None, STATE.get(item, "unreviewed")),
            status,
            wanted.flag in ("", flag) or (wanted.flag == "any" and flag is not None),
            wanted.finish in ("", of.get(schema.FINISH)),
            within(of[schema.LOGPROB], wanted.min_logprob, wanted.max_logprob),
            within(words_of(item), wanted.min_words, wanted.max_words),
        ]
    )


def key_of(item: int, wanted: Filter) -> tuple[bool, float]:
    value = {
        "": float(item),
        schema.LOGPROB: ROWS[item][schema.LOGPROB],
        schema.NUM_WORDS: words_of(item),
    }[wanted.sort]
    if value is None or math.isnan(value):
        return True, 0.0
    return False, -value if wanted.descending and wanted.sort else value


FILTERS = st.builds(
    Filter,
    text=st.sampled_from(["", "cat", "CAT mat", "bär", "c/", "100%", "_", "nothing", "' OR 1=1"]),
    state=st.sampled_from([None, "unreviewed", "approved", "rejected", "edited", "stale"]),
    status=st.sampled_from(["", "ok", "failed", "empty", "decode_failed"]),
    flag=st.sampled_from(["", "any", "truncated", "' --"]),
    finish=st.sampled_from(["", "stop"]),
    min_logprob=st.sampled_from([None, None, -1.0]),
    max_logprob=st.sampled_from([None, None, -0.2]),
    min_words=st.sampled_from([None, None, 2, 5]),
    max_words=st.sampled_from([None, None, 4]),
    sort=st.sampled_from(["", schema.LOGPROB, schema.NUM_WORDS]),
    descending=st.booleans(),
)


@given(wanted=FILTERS)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_filter_finds_what_a_search_of_every_row_finds(session: Session, wanted: Filter) -> None:
    expected = [item for item in range(len(ROWS)) if is_chosen(item, wanted)]
    expected.sort(key=lambda item: key_of(item, wanted))
    assert Selections(session.index).get(wanted).tolist() == expected


@pytest.mark.parametrize("sort", [schema.ERROR_CODE, schema.FLAG, schema.FINISH])
def test_closed_values_are_sorted_by_name_and_what_has_none_comes_last(
    session: Session, sort: str
) -> None:
    for descending in (False, True):
        items = session.selections.get(Filter(sort=sort, descending=descending))
        values = [ROWS[item].get(sort) for item in items]
        present = [value for value in values if value is not None]
        assert present == sorted(present, reverse=descending)
        assert values[: len(present)] == present


def test_the_state_of_items_can_be_sorted_by(session: Session) -> None:
    items = session.selections.get(Filter(sort="review", descending=True))
    assert items[:3].tolist() == [5, 2, 7]


@pytest.mark.parametrize(
    ("wanted", "setting"),
    [({"prompt": "none"}, "prompt"), ({"metric": "cider_d"}, "metric"), ({"sort": "x;"}, "sort")],
)
def test_a_filter_by_what_there_is_not_is_refused(
    session: Session, wanted: dict[str, str], setting: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        session.selections.get(Filter(**wanted))
    assert refused.value.setting == setting


def test_a_selection_stays_until_it_is_asked_for_anew(output: Callable[..., str]) -> None:
    with open_session(output([row(f"{place}.jpg") for place in range(4)])) as session:
        wanted = Filter(state="unreviewed")
        assert session.page(wanted, 0, 10)["total"] == 4
        session.save(Change(item=1, action="approve", old="a cat on a mat"))
        page = session.page(wanted, 0, 10)
        assert [item["review"] for item in page["items"]] == [None, "approved", None, None]
        assert page["counts"] == {"unreviewed": 3, "approved": 1}
        assert [i["item"] for i in session.page(wanted, 0, 10, anew=True)["items"]] == [0, 2, 3]
