"""Which images the tars of a WebDataset give, where they are, and what is left out."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from raycap.captioning.context import sidecar_uris
from raycap.captioning.tar_index import (
    DAMAGED,
    NO_IMAGE,
    NO_SUFFIX,
    OTHER_IMAGE,
    REPLACED,
    KnownShards,
    Shard,
    read_index,
    shard_tables,
)
from raycap.config import StorageConfig
from raycap.errors import ConfigError, ObjectNotFound
from raycap.images.names import HIDDEN
from raycap.schema import MANIFEST
from raycap.storage.local import DANGLING, LocalStore, etag_of
from raycap.storage.stores import ImageReader
from tests.support.tars import write_shard, write_tar

READER = ImageReader(StorageConfig())


def shard(path: Path, key: str | None = None) -> Shard:
    status = path.stat()
    return Shard(key or path.name, str(path), status.st_size, etag_of(status))


def images_of(path: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """Give the images of a tar, read by their addresses, and what was left out."""
    index = read_index(shard(path), READER)
    rows = index.manifest(shard(path)).to_pylist()
    assert [row["image_id"] for row in rows] == sorted({row["image_id"] for row in rows})
    return {
        row["image_id"].removeprefix(f"{path.name}/"): READER.read(row["uri"], 1_000_000)
        for row in rows
    }, index.skipped


def test_one_image_of_each_sample_is_captioned(tmp_path: Path) -> None:
    members = [
        ("0/a.PNG", b"second"),
        ("0/a.jpg", b"first"),
        ("0/a.txt", b"text"),
        ("0/b.seg.png", b"mask"),
        ("0/b.webp", b"of b"),
        ("st.john.jpg", b"a saint"),
        ("no.cls", b"3"),
        ("no.txt", b"text alone"),
        ("._a.jpg", b"of a Mac"),
        ("__meta__/x.jpg", b"metadata"),
        ("README", b"text"),
        ("@eaDir/x.jpg", b"thumbnail"),
        ("empty.gif", b""),
    ]
    images, skipped = images_of(write_tar(tmp_path / "a.tar", members))
    assert images == {
        "0/a.jpg": b"first",
        "0/b.webp": b"of b",
        "empty.gif": b"",
        "st.john.jpg": b"a saint",
    }
    assert skipped == {OTHER_IMAGE: 2, NO_IMAGE: 1, NO_SUFFIX: 1, HIDDEN: 1, "@eaDir/": 1}


def test_of_two_members_of_one_name_the_later_one_counts(tmp_path: Path) -> None:
    members = [("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"new")]
    images, skipped = images_of(write_tar(tmp_path / "a.tar", members))
    assert images == {"a.jpg": b"new", "b.jpg": b"b"}
    assert skipped == {REPLACED: 1}


def test_links_are_the_images_that_they_lead_to(tmp_path: Path) -> None:
    import tarfile  # noqa: PLC0415

    path = write_tar(tmp_path / "a.tar", [("real/a.jpg", b"a")])
    with tarfile.open(path, "a") as tar:
        for name, kind, target in (
            ("hard.jpg", tarfile.LNKTYPE, "real/a.jpg"),
            ("soft/s.jpg", tarfile.SYMTYPE, "../hard.jpg"),
            ("lost.jpg", tarfile.SYMTYPE, "nowhere.jpg"),
            ("loop.jpg", tarfile.SYMTYPE, "loop.jpg"),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, target
            tar.addfile(header)
    images, skipped = images_of(path)
    assert images == {"real/a.jpg": b"a", "hard.jpg": b"a", "soft/s.jpg": b"a"}
    assert skipped == {DANGLING: 2}


def test_tars_are_in_the_order_of_the_ids(tmp_path: Path) -> None:
    shards = []
    for key in ("a.tar", "a.tar-b.tar", "b/0.tar", "b.tar"):
        shards.append(shard(write_shard(tmp_path / key, [1, 0]), key))
    table = pa.concat_tables(shard_tables(shards, READER, 4, Counter()))
    assert table.schema == MANIFEST
    ids = table["image_id"].to_pylist()
    assert ids == sorted(ids, key=str.encode)
    assert len(ids) == 8


def test_a_tar_named_as_the_folder_of_another_one_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.tar", [0])
    shards = [shard(path, "a.tar"), shard(path, "a.tar/0.tar")]
    with pytest.raises(ConfigError) as caught:
        list(shard_tables(shards, READER, 1, Counter()))
    assert caught.value.uri == str(path)


@pytest.mark.parametrize("num_bytes", [0, 700, 5_000, 20_000])
def test_a_cut_tar_gives_the_images_before_the_cut_and_a_row_that_fails(
    tmp_path: Path, num_bytes: int
) -> None:
    path = write_shard(tmp_path / "a.tar", range(10))
    path.write_bytes(path.read_bytes()[:num_bytes])
    rows = read_index(shard(path), READER).manifest(shard(path)).to_pylist()
    last = rows.pop(0)
    assert last["image_id"] == f"a.tar/{DAMAGED}"
    with pytest.raises(ObjectNotFound) as caught:
        READER.read(last["uri"], 1_000)
    assert caught.value.uri == str(path)
    assert f"{len(rows)} images" in str(caught.value)
    assert (len(rows) > 0) == (num_bytes > 3_000)
    assert all(READER.read(row["uri"], 100_000)[-2:] == b"\xff\xd9" for row in rows)


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", [0])
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ConfigError) as caught:
        read_index(shard(path), READER)
    assert caught.value.uri == str(path)


def test_text_members_are_the_context_of_their_image(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", [7])
    (row,) = read_index(shard(path), READER).manifest(shard(path), has_context=True).to_pylist()
    found = sidecar_uris(row["context"], row["uri"])
    texts = {name: READER.read(uri, 1_000) for name, uri in found.items()}
    assert texts["000007.txt"] == b"alt text 7"
    assert json.loads(texts["000007.json"]) == {"tag": "tag 7"}


def test_an_index_is_kept_for_as_long_as_its_tar_is_the_same(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", range(3))
    output = LocalStore(tmp_path / "out")
    KnownShards(output, is_written=False).keep(shard(path), read_index(shard(path), READER))
    assert not (tmp_path / "out").exists()

    def tables(one: Shard) -> pa.Table:
        known = KnownShards(output, is_written=True)
        return pa.concat_tables(shard_tables([one], READER, 1, Counter(), known))

    first, before = tables(shard(path)), shard(path)
    path.unlink()  # it is not read again
    assert tables(before).equals(first)
    write_shard(path, range(4))
    assert len(tables(shard(path))) == 4
    for file in (tmp_path / "out").rglob("*.parquet"):
        assert str(path).encode() not in file.read_bytes()
        file.write_bytes(b"damaged")
    assert len(tables(shard(path))) == 4
