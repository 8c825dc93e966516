"""Export of the captions of tars: tars of the same names, read back by the package webdataset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycap import schema
from raycap.captioning.tar_index import Shard, read_index
from raycap.config import StorageConfig
from raycap.errors import ConfigError
from raycap.exporting.export import export
from raycap.storage.local import etag_of
from raycap.storage.stores import ImageReader
from tests.support import outputs
from tests.support.outputs import Part, failed, row
from tests.support.tars import jpeg, samples_of, write_shard, write_tar

# The fixture of tests/outputs.py, which pytest looks for under this name.
output = outputs.output


def rows_of(path: Path, key: str, *, without: int = 0) -> Part:
    """Give the rows of a tar, the first few of them without a caption."""
    status = path.stat()
    shard = Shard(key, str(path), status.st_size, etag_of(status))
    rows = []
    for number, image in enumerate(
        read_index(shard, ImageReader(StorageConfig())).manifest(shard).to_pylist()
    ):
        name, uri = image["image_id"], image["uri"]
        one = failed(name) if number < without else row(name, f"caption of {name}")
        rows.append(one | {schema.URI: uri, "source_uri": uri, schema.ETAG: image["etag"]})
    return rows


@pytest.fixture
def finished(output: Callable[..., str], tmp_path: Path) -> str:
    """Write the output of two tars in three parts, a row of each of which has no caption."""
    first = rows_of(write_shard(tmp_path / "s/a/0.tar", range(6), npy=b"x"), "a/0.tar", without=1)
    second = rows_of(write_shard(tmp_path / "s/1.tar", range(10, 14)), "1.tar", without=1)
    return output([*second, *first[:2]], first[2:4], first[4:])


def told(sample: dict[str, Any]) -> tuple[str, str, str]:
    read = json.loads(sample["json"])
    assert read["caption"] == sample["txt"].decode()
    assert list(read) == schema.CAPTIONS.names
    return sample["__key__"], read["image_id"], read["caption"]


def test_whole_tars_have_the_samples_with_their_captions(finished: str, tmp_path: Path) -> None:
    counts = export(finished, tmp_path / "x", to="webdataset")
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_files) == (8, 2, 2)
    samples = samples_of(tmp_path / "x/a/0.tar")
    assert [told(sample) for sample in samples] == [
        (f"{n:06d}", f"a/0.tar/{n:06d}.jpg", f"caption of a/0.tar/{n:06d}.jpg") for n in range(1, 6)
    ]
    assert [sample["jpg"] for sample in samples] == [jpeg(n) for n in range(1, 6)]
    assert {sample["npy"] for sample in samples} == {b"x"}
    assert [told(sample)[0] for sample in samples_of(tmp_path / "x/1.tar")] == [
        f"{n:06d}" for n in range(11, 14)
    ]
    first = (tmp_path / "x/1.tar").read_bytes()
    export(finished, tmp_path / "x", to="webdataset", existing="overwrite")
    assert (tmp_path / "x/1.tar").read_bytes() == first


def test_tars_of_captions_have_the_keys_of_the_images(finished: str, tmp_path: Path) -> None:
    (tmp_path / "s/1.tar").unlink()  # they are not read
    counts = export(finished, tmp_path / "x", to="webdataset", shards="captions")
    assert (counts.num_exported, counts.num_failed_skipped, counts.num_unreadable) == (8, 2, 0)
    for name, numbers in (("a/0.tar", range(1, 6)), ("1.tar", range(11, 14))):
        samples = samples_of(tmp_path / "x" / name)
        assert [told(sample)[0] for sample in samples] == [f"{n:06d}" for n in numbers]
        assert all(sample.keys() == {"__key__", "__url__", "txt", "json"} for sample in samples)


def test_a_condition_and_columns_hold_for_tars(finished: str, tmp_path: Path) -> None:
    chosen = {"where": "image_id > '1.tar/000012'", "columns": "image_id, caption as text"}
    export(finished, tmp_path / "x", to="webdataset", **chosen)  # type: ignore[arg-type]
    samples = samples_of(tmp_path / "x/1.tar")
    assert [json.loads(sample["json"]) for sample in samples] == [
        {"image_id": f"1.tar/{n:06d}.jpg", "text": f"caption of 1.tar/{n:06d}.jpg"}
        for n in (12, 13)
    ]


def test_a_tar_of_the_source_is_never_overwritten(finished: str, tmp_path: Path) -> None:
    for shards in ("whole", "captions"):
        before = (tmp_path / "s/1.tar").read_bytes()
        with pytest.raises(ConfigError):
            export(finished, tmp_path / "s", to="webdataset", shards=shards, existing="overwrite")
        assert (tmp_path / "s/1.tar").read_bytes() == before


def test_a_tar_that_has_changed_is_not_packed_with_old_captions(
    finished: str, tmp_path: Path
) -> None:
    write_shard(tmp_path / "s/1.tar", range(20, 25))
    (tmp_path / "s/a/0.tar").unlink()
    counts = export(finished, tmp_path / "x", to="webdataset")
    assert (counts.num_exported, counts.num_unreadable, counts.num_failed_skipped) == (0, 8, 2)
    assert len(counts.unreadable) == 2
    assert not (tmp_path / "x").exists()


def test_standing_tars_are_replaced_only_by_force(finished: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/1.tar").write_text("precious")
    with pytest.raises(ConfigError):
        export(finished, tmp_path / "x", to="webdataset")
    assert (tmp_path / "x/1.tar").read_text() == "precious"
    assert not (tmp_path / "x/a").exists()
    counts = export(finished, tmp_path / "x", to="webdataset", existing="skip")
    assert (counts.num_exported, counts.num_files, counts.num_kept) == (5, 1, 1)
    assert (tmp_path / "x/1.tar").read_text() == "precious"


def test_parts_are_tars_of_any_source(finished: str, tmp_path: Path) -> None:
    counts = export(finished, tmp_path / "x", to="webdataset", shards="parts")
    assert (counts.num_exported, counts.num_files) == (8, 3)
    samples = [s for n in range(3) for s in samples_of(tmp_path / f"x/part-00000{n}.tar")]
    assert {sample["jpg"] for sample in samples} == {
        jpeg(n) for n in (*range(1, 6), *range(11, 14))
    }


def test_members_that_a_list_names_by_other_ids_are_images_of_parts(
    output: Callable[..., str], tmp_path: Path
) -> None:
    rows = rows_of(write_shard(tmp_path / "s/0.tar", range(2)), "0.tar")
    named = [{**one, schema.IMAGE_ID: one["source_uri"]} for one in rows]
    counts = export(output(named), tmp_path / "x", to="webdataset")
    assert (counts.num_exported, counts.num_files) == (2, 1)
    assert (tmp_path / "x/part-000000.tar").exists()


def test_images_in_no_tar_have_no_tars_to_mirror(
    output: Callable[..., str], tmp_path: Path
) -> None:
    uri = output([row("a.jpg")])
    for shards in ("whole", "captions"):
        with pytest.raises(ConfigError) as caught:
            export(uri, tmp_path / "x", to="webdataset", shards=shards)
        assert caught.value.setting == "shards"
    with pytest.raises(ConfigError):
        export(uri, tmp_path / "x", to="csv", shards="captions")


def test_odd_members_go_where_they_belong(output: Callable[..., str], tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"old"),
        ("st.john.jpg", jpeg(1)),
        ("st.mary.png", jpeg(2)),
        ("st.cls", b"3"),
        ("lone.txt", b"no image"),
        ("a.jpg", jpeg(3)),
        ("a.seg.png", b"mask"),
        ("a.txt", b"old text"),
    ]
    path = write_tar(tmp_path / "s/0.tar", members)
    finished = output(rows_of(path, "0.tar"))
    counts = export(finished, tmp_path / "x", to="webdataset")
    assert counts.num_exported == 3
    saints, a = samples_of(tmp_path / "x/0.tar")
    assert (saints["__key__"], saints["john.jpg"], saints["cls"]) == ("st", jpeg(1), b"3")
    assert saints["mary.txt"].decode() == "caption of 0.tar/st.mary.png"
    assert (a["jpg"], a["seg.png"]) == (jpeg(3), b"mask")
    assert a["txt"].decode() == "caption of 0.tar/a.jpg"
