"""Captions in any order become images with all their captions, or rejections with a reason."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap import schema
from raycap.datasets.grouping import AnnotationRow, Group, Notes, group_rows, read_groups

MEMORY_BYTES = 100_000_000


def row(
    image_id: str,
    caption: str | None = "a cat",
    uri: str | None = "/a",
    *,
    offset_bytes: int | None = None,
    split: str | None = None,
) -> AnnotationRow:
    return AnnotationRow(image_id, "7", uri, offset_bytes, None, split, caption)


def table(rows: Sequence[AnnotationRow]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema.ANNOTATIONS]
    kinds = schema.ANNOTATIONS.types
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, schema=schema.ANNOTATIONS)


def groups_of(*tables: Sequence[AnnotationRow], needs_image: bool = True) -> list[Group]:
    return list(read_groups(map(table, tables), MEMORY_BYTES, needs_image=needs_image))


def rejected(group: Group) -> list[tuple[str | None, str | None, str]]:
    return [(item.uri, item.caption, item.reason) for item in group.rejections]


def test_images_come_in_byte_order_with_captions_in_the_order_of_the_source() -> None:
    found = groups_of(
        [row("é", "3"), row("b", "2"), row("Z", "1")],
        [row("b", "0"), row("\U0001f600", "x"), row("b", "2"), row("\uffee", "y")],
    )
    images = [group.image for group in found]
    assert [image.image_id for image in images if image] == ["Z", "b", "é", "\uffee", "\U0001f600"]
    assert images[1] is not None
    assert images[1].captions == ["2", "0", "2"]
    assert [group.num_captions for group in found] == [1, 3, 1, 1, 1]
    assert not any(group.rejections for group in found)


def test_an_image_without_caption_is_rejected() -> None:
    (group,) = groups_of([row("a", None)])
    assert group.image is None
    assert rejected(group) == [("/a", None, "no_caption")]
    assert (group.num_images, group.num_captions) == (1, 0)


def test_an_empty_caption_is_rejected_and_the_image_stays_if_it_has_another() -> None:
    kept, lost = groups_of([row("a", " \n"), row("a", " ok "), row("b", ""), row("b", "\u3000")])
    assert kept.image is not None
    assert kept.image.captions == [" ok "]
    assert rejected(kept) == [("/a", " \n", "empty_caption")]
    assert lost.image is None
    assert rejected(lost) == [
        ("/a", "", "empty_caption"),
        ("/a", "\u3000", "empty_caption"),
        ("/a", None, "no_caption"),
    ]


def test_a_caption_that_is_no_text_is_rejected_beside_others_and_not_lost() -> None:
    kept, none = groups_of([row("a", None), row("a", "ok"), row("a", None), *[row("b", None)] * 3])
    assert kept.image is not None
    assert kept.image.captions == ["ok"]
    assert rejected(kept) == [("/a", "", "empty_caption")] * 2
    assert kept.rejections[0].message is not None
    assert (kept.num_images, kept.num_captions) == (1, 3)
    assert rejected(none) == [("/a", None, "no_caption")]
    assert (none.num_images, none.num_captions) == (1, 0)


def test_a_caption_without_image_is_rejected_where_images_are_needed() -> None:
    rows = [row("a", "one", None), row("a", "two", None)]
    (group,) = groups_of(rows)
    assert group.image is None
    reasons = [(None, None, "no_image"), (None, "one", "no_image"), (None, "two", "no_image")]
    assert rejected(group) == reasons
    (group,) = groups_of(rows, needs_image=False)
    assert group.image is not None
    assert group.image.captions == ["one", "two"]


def test_of_one_id_at_several_addresses_the_first_with_captions_stays() -> None:
    rows = [
        row("a", " ", "/0"),
        row("a", "one", "/2"),
        row("a", "two", "/1"),
        row("a", "three", "/2"),
        row("a", "four", "/2", offset_bytes=512),
    ]
    (group,) = groups_of(rows)
    assert group.image is not None
    assert (group.image.uri, group.image.captions) == ("/2", ["one", "three"])
    assert rejected(group) == [
        ("/0", " ", "empty_caption"),
        ("/0", None, "no_caption"),
        ("/1", None, "duplicate_id"),
        ("/1", "two", "duplicate_id"),
        ("/2", None, "duplicate_id"),
        ("/2", "four", "duplicate_id"),
    ]
    assert (group.num_images, group.num_captions) == (4, 5)


def test_a_split_of_one_caption_is_that_of_the_image() -> None:
    (group,) = groups_of([row("a", "one"), row("a", "two", split="test")])
    assert group.image is not None
    assert group.image.split == "test"


def test_an_image_in_two_splits_is_rejected() -> None:
    (group,) = groups_of([row("a", "one", split="train"), row("a", "two", split="test")])
    assert group.image is None
    assert [reason for _, _, reason in rejected(group)] == ["split_conflict"] * 3
    assert {"test", "train"} <= set((group.rejections[0].message or "").split())


def test_no_tables_are_no_groups() -> None:
    assert groups_of() == []
    assert groups_of([]) == []


def test_more_rows_than_fit_a_page_are_grouped_alike() -> None:
    rows = [row(f"{(number * 7919) % 10_007:05d}", str(number)) for number in range(30_021)]
    found = groups_of(rows[:1], rows[1:20_000], rows[20_000:])
    assert len(found) == 10_007
    for group in found[::1000]:
        assert group.image is not None
        assert group.image.captions == [r.caption for r in rows if r.image_id == group.image_id]


ROWS = st.builds(
    row,
    st.sampled_from(["a", "b", "ü"]),
    st.sampled_from([None, "", " ", "one", "two"]),
    st.sampled_from([None, "/0", "/1"]),
    split=st.sampled_from([None, None, "train", "test"]),
)


@settings(deadline=None)
@given(st.lists(ROWS, max_size=12), st.booleans())
def test_every_image_and_caption_is_kept_once_or_rejected_once(
    rows: list[AnnotationRow], needs_image: bool
) -> None:
    for image_id in {item.image_id for item in rows}:
        mine = [item for item in rows if item.image_id == image_id]
        group = group_rows(image_id, mine, needs_image=needs_image)
        lost = [item.caption for item in group.rejections]
        kept = group.image.captions if group.image else []
        files: dict[tuple[str | None, int | None], list[str | None]] = {}
        for item in mine:
            files.setdefault((item.uri, item.offset_bytes), []).append(item.caption)
        # Nulls alone are an image without captions; beside captions, each is one of them.
        said = [c or "" for cs in files.values() for c in cs if any(x is not None for x in cs)]
        assert Counter(said) == Counter(kept) + Counter(c for c in lost if c is not None)
        assert group.num_captions == len(said)
        assert group.num_images == lost.count(None) + (group.image is not None)
        assert group.num_images == len({(item.uri, item.offset_bytes) for item in mine})
        assert all(caption.strip() for caption in kept)


def in_tar(tar: str, name: str, caption: str | None = "a cat") -> AnnotationRow:
    row = AnnotationRow(name, f"{tar}/{name}", f"/{tar}.tar", 512, 9, None, caption)
    return row if caption else row._replace(fault="it is not UTF-8")


def test_images_of_tars_that_count_from_0_are_named_by_their_tar_too() -> None:
    notes = Notes()
    rows = [
        in_tar("0", "0.jpg"),
        in_tar("0", "0.jpg", "b"),
        in_tar("0", "1.jpg"),
        in_tar("1", "0.jpg"),
    ]
    found = list(read_groups([table(rows)], MEMORY_BYTES, needs_image=True, notes=notes))
    assert [group.image_id for group in found] == ["0/0.jpg", "0/1.jpg", "1/0.jpg"]
    assert [len(group.image.captions) for group in found if group.image] == [2, 1, 1]
    assert found[0].image is not None
    assert found[0].image.source_id == "0.jpg"
    assert len(notes.texts()) == 1


def test_images_of_tars_keep_their_names_where_these_differ() -> None:
    notes = Notes()
    rows = [in_tar("0", "0.jpg"), in_tar("1", "1.jpg"), row("2.jpg")]
    found = list(read_groups([table(rows)], MEMORY_BYTES, needs_image=True, notes=notes))
    images = [group.image for group in found if group.image]
    assert [image.image_id for image in images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [image.source_id for image in images] == [None, None, "7"]
    assert notes.texts() == []


def test_an_address_that_is_signed_twice_is_one_file() -> None:
    signed = "https://h/a.jpg?X-Amz-Signature="
    (group,) = groups_of([row("a", "1", f"{signed}planted1"), row("a", "2", f"{signed}planted2")])
    assert group.image is not None
    assert (group.image.captions, group.rejections) == (["1", "2"], [])


def test_a_rejection_shows_no_secret() -> None:
    (group,) = groups_of(
        [row("a", "1", "https://me:planted@h/a?sig=planted&se=1"), row("a", "2", "https://h/b")]
    )
    assert [item.reason for item in group.rejections] == ["duplicate_id"] * 2
    assert not any("planted" in (item.message or "") for item in group.rejections)
    assert all("https://h/a" in (item.message or "") for item in group.rejections)


def test_an_image_without_a_caption_that_can_be_read_says_why() -> None:
    (group,) = groups_of([in_tar("0", "0.jpg", None)])
    assert [(r.reason, "UTF-8" in (r.message or "")) for r in group.rejections] == [
        ("no_caption", True)
    ]
    (group,) = groups_of([in_tar("0", "0.jpg", None), in_tar("0", "0.jpg")])
    assert [(r.reason, "UTF-8" in (r.message or "")) for r in group.rejections] == [
        ("empty_caption", True)
    ]
