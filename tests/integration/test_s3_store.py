"""S3Store against moto's server: what is written is there, and every key is listed once."""

import random
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from raycap.config import StorageConfig
from raycap.errors import BucketNotFound, ObjectNotFound
from raycap.storage.address import Address
from raycap.storage.s3 import S3Store
from raycap.storage.stores import ImageReader, open_store
from tests.conftest import S3

CONFIG = StorageConfig(timeout_s=10, num_retries=1, list_threads=4)
ODD_NAMES = [
    "a b.jpg",
    "a+b.jpg",
    "a#b.jpg",
    "a?b.jpg",
    "a%20b.jpg",
    "été/ä.jpg",
    "照片/😀.jpg",
    "a&b",
]


def keys_of(store: S3Store, prefix: str = "") -> list[str]:
    return [key for table in store.list(prefix) for key in table["key"].to_pylist()]


def fill(s3: S3, keys: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put(key, key.encode()), keys))


@pytest.fixture
def store(s3: S3) -> S3Store:
    return S3Store(Address.parse(f"s3://{s3.bucket}/some/prefix"), CONFIG)


def test_an_object_is_written_replaced_and_deleted(s3: S3, store: S3Store) -> None:
    store.write("x/a.json", b"one")
    store.write("x/a.json", b"two")
    assert store.read("x/a.json") == b"two"
    assert store.exists("x/a.json")
    assert not store.exists("x")
    reply = s3.client.get_object(Bucket=s3.bucket, Key="some/prefix/x/a.json")
    assert reply["Body"].read() == b"two"
    assert store.address("x/a.json") == f"s3://{s3.bucket}/some/prefix/x/a.json"
    store.delete("x/a.json")
    store.delete("x/a.json")
    assert not store.exists("x/a.json")
    with pytest.raises(ObjectNotFound) as caught:
        store.read("x/a.json")
    assert caught.value.uri == f"s3://{s3.bucket}/some/prefix/x/a.json"


def test_an_object_is_created_once(store: S3Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("run.json", b"%d" % n), range(8)))
    assert sorted(won) == [False] * 7 + [True]
    assert store.read("run.json") == b"%d" % won.index(True)


def test_only_the_named_version_is_swapped(store: S3Store) -> None:
    store.write("lock", b"one")
    _, version = store.read_versioned("lock")
    newer = store.put_if("lock", b"two", version)
    assert newer is not None
    assert store.put_if("lock", b"three", version) is None
    assert store.read_versioned("lock") == (b"two", newer)
    store.delete("lock")
    assert store.put_if("lock", b"four", newer) is None


def test_the_tail_is_at_most_the_whole_object(store: S3Store) -> None:
    store.write("a", b"0123456789")
    store.write("empty", b"")
    assert store.read_tail("a", 3) == b"789"
    assert store.read_tail("a", 100) == b"0123456789"
    assert store.read_tail("empty", 100) == b""
    with pytest.raises(ObjectNotFound):
        store.read_tail("none", 3)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_written_listed_and_read(store: S3Store, name: str) -> None:
    store.write(name, name.encode())
    assert keys_of(store) == [name]
    assert ImageReader(CONFIG).read(store.address(name), 1000) == name.encode()


def test_an_image_is_read_no_further_than_one_byte_beyond_the_limit(store: S3Store) -> None:
    store.write("a", b"0123456789")
    reader = ImageReader(CONFIG)
    assert reader.read(store.address("a"), 10) == b"0123456789"
    assert reader.read(store.address("a"), 4) == b"01234"
    with pytest.raises(ObjectNotFound):
        reader.read(store.address("b"), 4)


def test_folder_marks_and_neighbours_of_the_prefix_are_not_listed(s3: S3, store: S3Store) -> None:
    fill(s3, ["some/prefix/", "some/prefix/a/", "some/prefix/a/b", "some/prefix2/c", "some/p", "z"])
    assert keys_of(store) == ["a/b"]
    assert keys_of(S3Store(Address.parse(f"s3://{s3.bucket}/"), CONFIG)) == [
        "some/p",
        "some/prefix/a/b",
        "some/prefix2/c",
        "z",
    ]
    assert keys_of(S3Store(Address.parse(f"s3://{s3.bucket}/none"), CONFIG)) == []


def test_a_flat_listing_of_many_pages_is_whole_and_in_order(s3: S3, store: S3Store) -> None:
    keys = [f"{n * 7919 % 210:04d}.jpg" for n in range(210)]
    fill(s3, [f"some/prefix/{key}" for key in keys])
    table = pa.concat_tables(store.list())
    assert table["key"].to_pylist() == sorted(keys)
    assert table["size_bytes"].to_pylist() == [len(f"some/prefix/{key}") for key in sorted(keys)]
    head = s3.client.head_object(Bucket=s3.bucket, Key="some/prefix/0000.jpg")
    assert table["etag"][0].as_py() == head["ETag"].strip('"')


@pytest.mark.parametrize("seed", range(6))
def test_any_tree_is_listed_whole_and_in_order(s3: S3, store: S3Store, seed: int) -> None:
    """Big branches, small ones, deep ones, objects between them: as a plain sort has them."""
    rng = random.Random(seed)
    keys = set(random_tree(rng))
    fill(s3, [f"some/prefix/{key}" for key in keys])
    wanted = sorted(key for key in keys if not key.endswith("/"))
    assert keys_of(store) == wanted
    branch = wanted[len(wanted) // 2].partition("/")[0]
    inside = [key for key in wanted if key.startswith(f"{branch}/")]
    assert keys_of(store, f"{branch}/") == inside


def random_tree(rng: random.Random) -> list[str]:
    names = ["a", "a-b", "a b", "a.", "a0", "b", "é", "照", "😀", "~", "+", "x/y/z", "q//r"]
    deep = rng.choice(["", "only/", "only/child/"])
    keys = [f"{deep}loose-{n}{rng.choice(['', '.jpg', '/'])}" for n in range(rng.randrange(130))]
    for name in rng.sample(names, rng.randrange(1, 5)):
        for n in range(rng.choice([1, 10, 60, 120])):
            keys.append(f"{deep}{name}/{n:03d}{rng.choice(['.jpg', '-.jpg', '/x.jpg'])}")
        keys.append(f"{deep}{name}{rng.choice(['', '.jpg', '-', '0', '/'])}")
    return keys


def test_a_listing_may_be_left_early(s3: S3, store: S3Store) -> None:
    fill(s3, [f"some/prefix/{branch}/{n:04d}" for branch in "abcd" for n in range(110)])
    listing = store.list()
    assert next(iter(listing))["key"][0].as_py() == "a/0000"
    listing.close()  # type: ignore[attr-defined]  # a generator


def test_a_bucket_that_is_not_there_is_told_in_one_line(s3: S3) -> None:
    del s3
    store = open_store("s3://no-such-bucket-here/x", CONFIG)
    for attempt in (
        lambda: store.read("a"),
        lambda: store.write("a", b""),
        lambda: store.create("a", b""),
        lambda: store.read_tail("a", 10),
        lambda: list(store.list()),
    ):
        with pytest.raises(BucketNotFound) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, ObjectNotFound)


@pytest.mark.parametrize("address", ["s3://", "s3://B@d name/x", "s3://bucket", "s3://bucket/"])
def test_an_image_address_without_bucket_or_key_is_not_found(s3: S3, address: str) -> None:
    del s3
    with pytest.raises(ObjectNotFound, match="s3://bucket/key") as caught:
        ImageReader(CONFIG).read(address, 100)
    assert "\n" not in str(caught.value)
