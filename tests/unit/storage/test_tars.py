"""Places of members in tars, against Python's own tarfile."""

import gzip
import io
import tarfile
from io import BufferedReader, BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycap.storage.members import Member, member_of
from raycap.storage.tars import CompressedTar, DamagedTar, TarMember, sample_of, tar_members

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=120)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
MEMBERS = st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=2_000)), max_size=8)
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def packed(members: list[tuple[str, bytes, bytes]], form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, kind, data in members:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "target"
            header.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(header, BytesIO(data) if header.size else None)
    return sink.getvalue()


def found_in(data: bytes, *, has_size: bool = True) -> list[TarMember]:
    reader: Any = BufferedReader(BytesIO(data), 512)
    return list(tar_members(reader, len(data) if has_size else None))


@settings(deadline=None)
@given(MEMBERS, FORMATS)
def test_every_file_is_where_tarfile_finds_it(
    members: list[tuple[str, bytes, bytes]], form: int
) -> None:
    data = packed(members, form)
    found = found_in(data)
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        wanted = [m for m in tar.getmembers() if m.isreg() or m.islnk() or m.issym()]
        assert [m.name for m in found] == [m.name.removeprefix("./") for m in wanted]
        for one, header in zip(found, wanted, strict=True):
            assert (one.target is None) == header.isreg()
            if header.isreg():
                content = tar.extractfile(header)
                assert content is not None
                end = one.offset_bytes + one.size_bytes
                assert data[one.offset_bytes : end] == content.read()


@settings(deadline=None)
@given(MEMBERS.filter(bool), FORMATS, st.data())
def test_of_a_tar_that_is_cut_only_whole_members_are_found(
    members: list[tuple[str, bytes, bytes]], form: int, draw: st.DataObject
) -> None:
    whole = packed(members, form)
    data = whole[: draw.draw(st.integers(0, len(whole) - 1))]
    found: list[TarMember] = []
    reader: Any = BufferedReader(BytesIO(data), 512)
    try:
        for member in tar_members(reader, len(data)):
            found.append(member)
    except DamagedTar:
        pass
    else:  # only zeros were cut
        assert not whole[len(data) :].strip(b"\0")
    assert found == found_in(whole)[: len(found)]
    assert all(m.offset_bytes + m.size_bytes <= len(data) for m in found)


@settings(deadline=None)
@given(st.binary(max_size=3_000).filter(lambda data: bool(data.strip(b"\0"))))
def test_bytes_that_are_no_tar_are_a_damaged_one(data: bytes) -> None:
    with pytest.raises(DamagedTar):
        found_in(data)


def test_a_compressed_tar_is_told_from_a_damaged_one() -> None:
    data = gzip.compress(packed([("a.jpg", tarfile.REGTYPE, b"x")], tarfile.PAX_FORMAT))
    with pytest.raises(CompressedTar):
        found_in(data)


def test_a_sparse_file_has_no_place() -> None:
    header = tarfile.TarInfo("sparse.jpg")
    header.size = 3
    header.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": "1000",
        "GNU.sparse.map": "900,3",
    }
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header, BytesIO(b"end"))
        tar.addfile(tarfile.TarInfo("plain.jpg"))
    assert [member.name for member in found_in(sink.getvalue())] == ["plain.jpg"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/b.jpg", ("a/b", None, ".jpg")),
        ("a/b.seg.PNG", ("a/b.seg", "a/b", ".png")),
        ("a/b.txt", ("a/b.txt", None, "")),
        (".jpg", (".jpg", None, "")),
    ],
)
def test_a_name_is_split_at_its_dots(name: str, found: tuple[str, str | None, str]) -> None:
    assert sample_of(name, {".jpg", ".png"}) == found


@pytest.mark.parametrize("tar", ["/a b/0.tar", "s3://b/x/0.TAR", "https://h/0.tar?key=1"])
def test_the_address_of_a_member_is_read_back(tar: str) -> None:
    member = Member(tar=tar, offset_bytes=512, size_bytes=0)
    assert member_of(member.uri) == member


@pytest.mark.parametrize(
    "uri",
    [
        "/a/0.tar",
        "/a/0.zip#offset=1&size=2",
        "/a/0.tar#offset=-1&size=2",
        "/a/0.tar#offset=1&size=2&more",
        "https://h/a.jpg?x=0.tar#offset=1&size=2",
    ],
)
def test_other_addresses_name_no_member(uri: str) -> None:
    assert member_of(uri) is None
