"""Which tars an address names: one, a glob, names in braces; and which addresses are refused."""

from collections import Counter
from pathlib import Path

import pytest

from raycap.captioning.shards import find_shards
from raycap.captioning.source import open_source
from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.storage.stores import ImageReader
from tests.support.tars import jpeg, write_shard

CONFIG = StorageConfig()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(3):
        write_shard(tmp_path / f"train/{number:05d}.tar", [number])
    write_shard(tmp_path / "val/00000.tar", [9])
    (tmp_path / "train/00000.json").write_text("{}")
    return tmp_path


def keys(source: str) -> list[str]:
    found = find_shards(source, CONFIG)
    assert found is not None
    assert found.source == source
    return [shard.key for shard in found.shards(Counter())]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("train/00001.tar", ["00001.tar"]),
        ("train/*.tar", ["00000.tar", "00001.tar", "00002.tar"]),
        ("train/{00000..00001}.tar", ["00000.tar", "00001.tar"]),
        ("train/{00002,00000}.tar", ["00000.tar", "00002.tar"]),
        ("{train,val}/00000.tar", ["train/00000.tar", "val/00000.tar"]),
        ("{train,val}/*.tar", [*(f"train/0000{n}.tar" for n in range(3)), "val/00000.tar"]),
        ("train/{train,00000}*.tar", ["00000.tar"]),
        ("train/7*.tar", []),
    ],
)
def test_a_pattern_names_tars(root: Path, pattern: str, found: list[str]) -> None:
    assert keys(f"{root}/{pattern}") == found


def test_a_file_with_braces_in_its_name_is_that_file(root: Path) -> None:
    write_shard(root / "{a,b}.tar", [1])
    assert keys(f"{root}/{{a,b}}.tar") == ["{a,b}.tar"]


@pytest.mark.parametrize(
    "pattern",
    [
        "train/{00000..00003}.tar",  # one does not exist
        "train/{00000..00001.tar",
        "train/{0..99999999999}.tar",
        "train/{0..9999}{0..9999}.tar",
        "train/{00000.tar,00000.json}",
        "train/*.tar.gz",
        "train/{0..3}.tgz",
        "none/{0..3}.tar",
    ],
)
def test_a_pattern_that_cannot_be_right_is_refused(root: Path, pattern: str) -> None:
    source = f"{root}/{pattern}"
    with pytest.raises(ConfigError) as caught:
        keys(source)
    assert caught.value.uri == source


@pytest.mark.parametrize(
    "source", ["{root}/train", "{root}/train/*.json", "{root}/a{{.jpg", "s3://b/x", "photos.jpg"]
)
def test_other_addresses_are_not_those_of_tars(root: Path, source: str) -> None:
    assert find_shards(source.format(root=root), CONFIG) is None


def test_a_folder_with_tars_and_no_images_is_its_tars(root: Path) -> None:
    listing = open_source(str(root), CONFIG)
    ids = [name for table in listing.tables for name in table["image_id"].to_pylist()]
    assert ids == [
        *(f"train/0000{n}.tar/00000{n}.jpg" for n in range(3)),
        "val/00000.tar/000009.jpg",
    ]
    assert listing.skipped == {".json": 1}
    (root / "a.jpg").write_bytes(jpeg(0))
    listing = open_source(str(root), CONFIG)
    ids = [name for table in listing.tables for name in table["image_id"].to_pylist()]
    assert ids == ["a.jpg"]
    assert listing.skipped == {".json": 1, ".tar": 4}


@pytest.mark.parametrize("pattern", ["*.tar", "a[0-9].tar"])
def test_the_web_takes_no_wildcard(pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_shards(f"https://user:secret@host/{pattern}?token=secret", CONFIG)
    assert "secret" not in str(caught.value)


def test_a_list_may_name_members_of_tars(root: Path) -> None:
    (table,) = open_source(str(root / "val/*.tar"), CONFIG).tables
    uri = table["uri"][0].as_py()
    (root / "list.txt").write_text(f"{uri}\nval/00000.tar\n")
    rows = [
        row for t in open_source(str(root / "list.txt"), CONFIG).tables for row in t.to_pylist()
    ]
    assert [row["uri"] for row in rows] == [uri, str(root / "val/00000.tar")]
    assert ImageReader(CONFIG).read(rows[0]["uri"], 100_000) == jpeg(9)
