"""Planning against brute force: any listings, killed at any write, give every image once."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.captioning.parts import MANIFEST, read_part
from raycap.captioning.plan import CaptionPlan, extend_plan, read_plan, record_plan
from raycap.errors import DatasetError, StorageError
from raycap.schema import MANIFEST as MANIFEST_SCHEMA
from raycap.storage.base import KEY
from raycap.storage.local import LocalStore
from raycap.storage.parts import list_parts, part_key

Images = dict[str, str | None]
"""ETags by image id."""


class Killed(Exception):
    """The process ends here."""


class MortalStore(LocalStore):
    """Dies after some writes."""

    num_writes_left = 10**9

    def write(self, key: str, data: bytes) -> None:
        if self.num_writes_left <= 0:
            raise Killed
        self.num_writes_left -= 1
        super().write(key, data)


class LateStore(LocalStore):
    """Lists all but the last manifest part, which was written a moment ago."""

    def list(self, prefix: str = "") -> Iterator[pa.Table]:
        late = part_key(MANIFEST, max(list_parts(LocalStore(Path(self.uri)), MANIFEST)))
        for page in super().list(prefix):
            yield page.filter(pc.not_equal(page[KEY], late))


def listing(images: Images, page: int = 3) -> Iterator[pa.Table]:
    rows = [
        {"image_id": name, "uri": f"u/{name}", "size_bytes": len(name), "etag": etag}
        for name, etag in sorted(images.items(), key=lambda item: item[0].encode())
    ]
    for start in range(0, len(rows), page):
        yield pa.Table.from_pylist(rows[start : start + page], schema=MANIFEST_SCHEMA)


def planned(store: LocalStore) -> list[tuple[int, int, str, str | None]]:
    """Read every row as (part, row, image id, ETag)."""
    return [
        (number, row, item["image_id"], item["etag"])
        for number in sorted(list_parts(store, MANIFEST))
        for row, item in enumerate(read_part(store, MANIFEST, number).to_pylist())
    ]


def extend(
    store: LocalStore, images: Images, part_size: int = 4, limit: int | None = None
) -> CaptionPlan:
    tables = listing(images)
    return extend_plan(store, tables, part_size=part_size, num_threads=2, limit=limit)


IDS = st.text("ab/é😀\ufffd", min_size=1, max_size=3)
ROUND = st.tuples(
    st.dictionaries(IDS, st.sampled_from(["1", "2", None]), max_size=25),
    st.integers(1, 7),
    st.none() | st.integers(1, 30),
    st.none() | st.integers(0, 6),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(ROUND, min_size=1, max_size=5), st.integers(2, 9))
def test_any_listings_give_every_image_once_with_its_latest_etag(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[tuple[Images, int, int | None, int | None]],
    chunk_rows: int,
) -> None:
    store = MortalStore(tmp_path_factory.mktemp("out"))
    latest: Images = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raycap.captioning.plan._CHUNK_ROWS", chunk_rows)
        for images, part_size, limit, num_writes in rounds:
            before = planned(store)
            seen = dict(sorted(images.items(), key=lambda item: item[0].encode())[:limit])
            if num_writes is not None:
                store.num_writes_left = num_writes
                try:
                    extend(store, images, part_size, limit)
                except Killed:
                    check_places(before, planned(store))
                store.num_writes_left = 10**9
            plan = extend(store, images, part_size, limit)
            latest |= {k: v if v is not None else latest.get(k) for k, v in seen.items()}
            check_places(before, planned(store))
            found = [(name, etag) for _, _, name, etag in planned(store)]
            assert len(found) == len(latest)
            check_etags(dict(found), latest)
            assert plan == CaptionPlan(
                parts=read_plan(store, 2).parts, num_new=plan.num_new, num_changed=plan.num_changed
            )
            again = extend(store, images, part_size, limit)
            assert (again.num_new, again.num_changed, again.parts) == (0, 0, plan.parts)
            latest = dict(found)


def check_places(
    before: list[tuple[int, int, str, str | None]], after: list[tuple[int, int, str, str | None]]
) -> None:
    """An image never leaves its part, and no image is in two parts."""
    places = {(part, row): name for part, row, name, _ in after}
    assert all(places[part, row] == name for part, row, name, _ in before)
    assert len(set(places.values())) == len(places)


def check_etags(found: Images, latest: Images) -> None:
    for name, etag in latest.items():
        # Without an ETag in either listing, an image counts as unchanged.
        assert found[name] == etag or found[name] is None


def numbered(numbers: range, etag: str = "1") -> Images:
    return {f"{number:04d}": etag for number in numbers}


def test_new_images_become_new_parts_and_old_parts_stay(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = extend(store, numbered(range(0, 20, 2)))
    assert [part.num_rows for part in first.parts.values()] == [4, 4, 2]
    assert (first.num_new, first.num_changed, first.num_images, first.num_bytes) == (10, 0, 10, 40)
    old = {number: store.read(part_key(MANIFEST, number)) for number in first.parts}
    second = extend(store, numbered(range(20)))
    assert (second.num_new, second.num_changed, second.num_images) == (10, 0, 20)
    assert list(second.parts) == [0, 1, 2, 3, 4, 5]
    assert {number: store.read(part_key(MANIFEST, number)) for number in old} == old


def test_a_changed_image_raises_the_revision_of_its_part_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    extend(store, numbered(range(12)))
    old = {number: store.read(part_key(MANIFEST, number)) for number in range(3)}
    plan = extend(store, {**numbered(range(12)), "0005": "2", "0006": "3"})
    assert (plan.num_new, plan.num_changed) == (0, 2)
    assert [part.revision for part in plan.parts.values()] == [0, 1, 0]
    assert store.read(part_key(MANIFEST, 0)) == old[0]
    assert store.read(part_key(MANIFEST, 2)) == old[2]
    assert read_part(store, MANIFEST, 1)["etag"].to_pylist() == ["1", "2", "3", "1"]


def test_images_that_are_gone_stay_planned(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    extend(store, numbered(range(12)))
    plan = extend(store, numbered(range(6, 8)))
    assert (plan.num_images, plan.num_new, plan.num_changed) == (12, 0, 0)


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    extend(store, numbered(range(6)))
    before = planned(store)
    images = {**numbered(range(10)), "0001": "2"}
    plan = extend_plan(store, listing(images), part_size=3, num_threads=2, dry_run=True)
    assert (plan.num_new, plan.num_changed, plan.num_images) == (4, 1, 10)
    assert len(plan.parts) == 4
    assert planned(store) == before


def test_changed_parts_are_rewritten_as_the_listing_passes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycap.captioning.plan._CHUNK_ROWS", 4)
    store = LocalStore(tmp_path)
    extend(store, numbered(range(40)))
    passed = []

    def watched() -> Iterator[pa.Table]:
        for table in listing(numbered(range(40), "2"), page=4):
            passed.append(sum(part.revision for part in read_plan(store, 1).parts.values()))
            yield table

    extend_plan(store, watched(), part_size=4, num_threads=2)
    assert passed == list(range(10))


@pytest.mark.parametrize("page", [1, 2, 100])
@pytest.mark.parametrize(
    "names", [["b", "a"], ["a", "a"], ["a", "b", "b"], ["é", "z"], ["", ""], ["a", "b", "c", "b"]]
)
def test_a_listing_out_of_order_or_with_a_double_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], page: int
) -> None:
    monkeypatch.setattr("raycap.captioning.plan._CHUNK_ROWS", 2)
    rows = [{"image_id": name, "uri": name, "size_bytes": 1, "etag": "1"} for name in names]
    tables = [
        pa.Table.from_pylist(rows[start : start + page], schema=MANIFEST_SCHEMA)
        for start in range(0, len(rows), page)
    ]
    with pytest.raises(StorageError) as caught:
        extend_plan(LocalStore(tmp_path), tables, part_size=4, num_threads=2)
    assert any(repr(name) in str(caught.value) for name in names)


def test_an_empty_listing_plans_nothing(tmp_path: Path) -> None:
    plan = extend(LocalStore(tmp_path), {})
    assert (plan.num_images, plan.num_bytes, plan.parts) == (0, 0, {})


def test_an_empty_name_is_a_name(tmp_path: Path) -> None:
    assert extend(LocalStore(tmp_path), {"": "1", "a": "1"}).num_images == 2


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_source_that_has_moved_gives_unchanged_images_their_new_address_only(
    is_moved: bool, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    images: Images = {"a": "1", "b": "1", "c": None, "d": "1", "e": "1"}
    extend(store, images, part_size=2)
    there = [
        table.set_column(
            1, "uri", pa.array([f"v/{name}" for name in table["image_id"].to_pylist()])
        )
        for table in listing({**images, "d": "2", "f": "1"})
    ]
    plan = extend_plan(store, there, part_size=2, num_threads=1, is_moved=is_moved)
    rows = [row for number in range(4) for row in read_part(store, MANIFEST, number).to_pylist()]
    moved = {"d", "f"} if not is_moved else set("abcdef")
    assert {row["image_id"]: row["uri"] for row in rows} == {
        name: f"{'v' if name in moved else 'u'}/{name}" for name in "abcdef"
    }
    assert (plan.num_new, plan.num_changed) == (1, 1)
    assert [plan.parts[number].revision for number in range(4)] == [0, 1, 0, 0]
    again = extend_plan(store, there, part_size=2, num_threads=1, is_moved=is_moved)
    assert (again.num_new, again.num_changed) == (0, 0)


def test_images_that_are_gone_are_noted_and_return(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    everything: Images = dict.fromkeys("abcdefgh", "1")
    extend(store, everything, part_size=3)
    left: Images = dict.fromkeys("bceh", "1")

    def gone() -> list[list[int]]:
        return [part.gone for part in read_plan(store, 1).parts.values()]

    plan = extend(store, left, part_size=3)
    assert plan.num_gone == 4
    assert gone() == [[0], [0, 2], [0]]
    assert all(part.revision == 0 for part in plan.parts.values())
    before = planned(store)
    assert extend(store, {"b": "1", "c": "1"}, part_size=3).num_gone == 6
    assert gone() == [[0], [0, 1, 2], [0, 1]]
    # The first images of a listing do not tell what follows them.
    assert extend(store, everything, part_size=3, limit=2).num_gone == 6
    assert extend(store, everything, part_size=3, limit=4).num_gone == 5
    with_new = extend(store, {**everything, "a": "2", "z": "1"}, part_size=3)
    assert (with_new.num_gone, with_new.num_changed, with_new.num_new) == (0, 1, 1)
    assert gone() == [[], [], [], []]
    assert [row[:3] for row in planned(store)[:8]] == [row[:3] for row in before]


def test_an_empty_listing_takes_nothing_for_gone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    extend(store, {"a": "1"})
    assert not extend(store, {"a": "1"}).is_source_empty
    assert not extend(store, {}, limit=1).is_source_empty
    plan = extend(store, {})
    assert (plan.num_images, plan.num_gone, plan.is_source_empty) == (1, 0, True)
    assert not extend(store, {"b": "1"}).is_source_empty


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_deleted_part_is_missed_whichever_it_is(tmp_path: Path, number: int) -> None:
    store = LocalStore(tmp_path)
    plan = extend(store, dict.fromkeys("abcdefgh", "1"), part_size=3)
    plan.run = "digest"
    record_plan(store, plan)
    store.delete(part_key(MANIFEST, number))
    with pytest.raises(DatasetError) as caught:
        read_plan(store, 1)
    assert caught.value.uri == store.address(part_key(MANIFEST, number))


def test_a_part_that_a_late_listing_does_not_show_is_kept(tmp_path: Path) -> None:
    images: Images = dict.fromkeys("abcdefgh", "1")
    plan = extend(LocalStore(tmp_path), images, part_size=3)
    plan.run = "digest"
    record_plan(LocalStore(tmp_path), plan)
    store = LateStore(tmp_path)
    assert sorted(list_parts(store, MANIFEST)) == [0, 1]
    assert read_plan(store, 1) == CaptionPlan(parts=plan.parts)
    before = planned(LocalStore(tmp_path))
    again = extend(store, {**images, "i": "1"}, part_size=3)
    assert (again.num_images, again.num_new, again.num_parts) == (9, 1, 4)
    again.run = "digest"
    record_plan(store, again)
    assert planned(LocalStore(tmp_path)) == [*before, (3, 0, "i", "1")]
    assert read_plan(store, 1).num_images == 9


def test_a_part_that_was_not_planned_is_not_read_and_is_deleted(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    images: Images = dict.fromkeys("abcdefgh", "1")
    plan = extend(store, images, part_size=3)
    plan.run = "digest"
    record_plan(store, plan)
    store.write(part_key(MANIFEST, 3), store.read(part_key(MANIFEST, 0)))
    assert read_plan(store, 1) == CaptionPlan(parts=plan.parts)
    again = extend(store, images, part_size=3)
    again.run = "digest"
    record_plan(store, again)
    assert set(list_parts(store, MANIFEST)) == {0, 1, 2}


def in_context(images: dict[str, str | None]) -> Iterator[pa.Table]:
    (table,) = listing(dict.fromkeys(images, "e"), len(images))
    contexts = pa.array([context for _, context in sorted(images.items())], pa.string())
    yield table.set_column(4, MANIFEST_SCHEMA.field(4), contexts)


def test_a_row_with_other_values_is_a_changed_row_and_a_missing_value_is_one(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path)

    def plan(images: dict[str, str | None], *, has_context: bool = True) -> CaptionPlan:
        return extend_plan(
            store, in_context(images), part_size=2, num_threads=2, has_context=has_context
        )

    def contexts() -> list[list[str | None]]:
        return [read_part(store, MANIFEST, n)["context"].to_pylist() for n in range(3)]

    one, two, none = '{"tags":"1"}', '{"tags":"2"}', '{"tags":null}'
    plan({"a": one, "b": none, "c": one, "d": one, "e": one})
    same = plan({"a": one, "b": none, "c": one, "d": one, "e": one})
    assert (same.num_new, same.num_changed) == (0, 0)
    other = plan({"a": one, "b": two, "c": none, "d": two, "e": one, "f": one})
    assert (other.num_new, other.num_changed) == (1, 3)
    assert [part.revision for part in other.parts.values()] == [1, 1, 0, 0]
    assert contexts() == [[one, two], [none, two], [one]]
    more = '{"alt":"x","tags":"1"}'
    added = plan({"a": more, "b": more, "c": none, "d": two, "e": more, "f": one})
    assert added.num_changed == 1  # the others have another field, not another value
    assert [part.revision for part in added.parts.values()] == [2, 1, 0, 0]
    assert contexts() == [[more, more], [none, two], [more]]


def test_a_manifest_of_an_older_version_has_no_context(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    extend(store, {"a": "1", "b": "2"})
    path = Path(store.address(part_key(MANIFEST, 0)))
    old = pq.read_table(path)
    pq.write_table(old.drop_columns(["context"]).replace_schema_metadata(old.schema.metadata), path)
    assert read_part(store, MANIFEST, 0)["context"].to_pylist() == [None, None]
    assert extend(store, {"a": "1", "b": "3"}).num_changed == 1
    assert [part.revision for part in read_plan(store, 2).parts.values()] == [1]
