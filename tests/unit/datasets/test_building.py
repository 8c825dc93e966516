"""Parts of a caption dataset: what is kept, rejected, shrunk, moved, and continued."""

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from raycap import schema
from raycap.config import PrepareConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import open_dataset
from raycap.datasets.parts import ANSWERED_PARTS
from raycap.datasets.planning import write_plan
from raycap.datasets.splits import hashed_split, rank_of, subset_limit
from raycap.datasets.survey import find_duplicates, load_answers, write_moves
from raycap.errors import ConfigError, DatasetError, RunConflict, StorageError
from raycap.images.decoding import Target, decode
from raycap.metrics.tokenizer import tokenize
from raycap.runs.records import LOCK
from raycap.scratch import scratch_database
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store
from tests.support.caption_sets import (
    MARK,
    annotations,
    build,
    finish,
    folder_rows,
    make_dataset,
    picture,
)


def config(**sections: Any) -> PrepareConfig:
    sections.setdefault("engine", {"part_size": 16})
    sections.setdefault("split", {"validation": 0.3, "test": 0.3})
    return validate_config(PrepareConfig, sections)


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    table = pa.concat_tables(open_dataset(output, StorageConfig()).pages())
    return {row[schema.IMAGE_ID]: row for row in table.to_pylist()}


def rejected_of(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(output / "rejected.parquet").to_pylist()
    return rows


def files_of(output: Path) -> dict[str, bytes]:
    """Every file but the record, which has the time in it."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != "dataset.json"
    }


def write_twins(folder: Path, count: int, num_kinds: int) -> None:
    """Write images of which many are the same."""
    for number in range(count):
        picture(folder / f"{number:03d}.jpg", seed=number % num_kinds)


def test_every_kind_of_rejection_is_counted_and_written_down(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    whole = picture(folder / "good.jpg")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<html>")
    picture(folder / "large.png", size=(200, 100))
    rows = [
        *folder_rows(folder),
        {"image_id": "good.jpg", "uri": str(folder / "good.jpg"), "caption": " "},
        {"image_id": "good.jpg", "uri": str(folder / "page.jpg"), "caption": "another file"},
        {"image_id": "gone.jpg", "uri": str(folder / "gone.jpg"), "caption": "gone"},
        {"image_id": "mute.jpg", "uri": str(folder / "mute.jpg")},
        {"image_id": "none.jpg", "caption": "without image"},
        {"image_id": "two.jpg", "uri": "/two.jpg", "caption": "x", "split": "train"},
        {"image_id": "two.jpg", "uri": "/two.jpg", "caption": "y", "split": "test"},
    ]
    settings = config(image={"max_pixels": 10_000})
    record = make_dataset(tmp_path / "out", rows, settings)
    assert (record.num_images, record.num_captions) == (1, 2)
    assert record.rejected_images == {
        "decode_failed": 1,
        "duplicate_id": 1,
        "empty": 1,
        "no_caption": 1,
        "no_image": 1,
        "not_found": 1,
        "split_conflict": 1,
        "too_large": 1,
        "unsupported_format": 1,
    }
    assert record.rejected_captions == {
        "decode_failed": 2,
        "duplicate_id": 1,
        "empty": 2,
        "empty_caption": 1,
        "no_image": 1,
        "not_found": 1,
        "split_conflict": 2,
        "too_large": 2,
        "unsupported_format": 2,
    }
    written = rejected_of(tmp_path / "out")
    ids = [row["image_id"] for row in written]
    assert ids == sorted(ids)
    for counts, is_image in ((record.rejected_images, True), (record.rejected_captions, False)):
        found = [row["reason"] for row in written if (row["caption"] is None) == is_image]
        assert {reason: found.count(reason) for reason in found} == counts
    cut = [row for row in written if row["image_id"] == "cut.jpg"]
    assert [row["caption"] for row in cut] == [None, "picture of cut 0", "a picture of cut 1"]
    assert cut[0]["uri"] == str(folder / "cut.jpg")
    assert cut[0]["message"] == "JPEG: Truncated File Read"
    # Five files, another under the id of one of them, and four more ids.
    assert (record.num_source_images, record.num_source_captions) == (10, 16)


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(23):
        picture(folder / f"{number}.jpg", seed=number, size=(300 + 37 * number, 400))
    record = make_dataset(tmp_path / "out", folder_rows(folder, 3), config())
    rows = rows_of(tmp_path / "out")
    for split, summary in record.splits.items():
        mine = [row for row in rows.values() if row["split"] == split]
        lengths = [len(tokenize(caption)) for row in mine for caption in row["captions"]]
        assert summary.num_images == len(mine)
        assert summary.num_captions == len(lengths)
        assert summary.lengths == {n: lengths.count(n) for n in sorted(set(lengths))}
        assert summary.mean_tokens == pytest.approx(sum(lengths) / len(lengths), abs=1e-4)
        files = (tmp_path / "out" / split).iterdir()
        assert summary.num_bytes == sum(file.stat().st_size for file in files)
    words = {word for row in rows.values() for c in row["captions"] for word in tokenize(c)}
    assert record.vocabulary_size == len(words)
    widths = sorted(row["width_px"] for row in rows.values())
    assert (record.width_px.min, record.width_px.max) == (widths[0], widths[-1])
    assert record.width_px.median == widths[11]
    assert sum(record.megapixels.values()) == 23
    assert list(record.megapixels) == ["0-0.125", "0.125-0.25", "0.25-0.5"]
    assert record.num_source_bytes == sum(file.stat().st_size for file in folder.iterdir())


def test_images_are_stored_byte_for_byte(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    files = {f"{n}{suffix}": picture(folder / f"{n}{suffix}", n) for n, suffix in KINDS}
    make_dataset(tmp_path / "out", folder_rows(folder), config())
    rows = rows_of(tmp_path / "out")
    assert {image_id: row["bytes"] for image_id, row in rows.items()} == files
    assert {row["uri"] for row in rows.values()} == {str(folder / name) for name in files}
    assert len({row["digest"] for row in rows.values()}) == len(files)


KINDS = list(enumerate([".jpg", ".png", ".webp"]))


def turned(path: Path, size: tuple[int, int]) -> None:
    """Write a JPEG that its EXIF turns by a quarter."""
    picture(path, 5, size)
    image = Image.open(path)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 6
    image.save(path, exif=exif, quality=95)


def test_images_are_shrunk_turned_and_never_enlarged(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    small = picture(folder / "small.jpg", 1, (60, 40))
    picture(folder / "small.png", 2, (60, 40))
    picture(folder / "wide.jpg", 3, (300, 100))
    picture(folder / "tall.png", 4, (90, 400))
    turned(folder / "turned.jpg", (200, 100))
    turned(folder / "small-turned.jpg", (60, 40))
    settings = config(embed={"max_side_px": 50, "quality": 95})
    make_dataset(tmp_path / "out", folder_rows(folder), settings)
    rows = rows_of(tmp_path / "out")
    sizes = {name: (row["width_px"], row["height_px"]) for name, row in rows.items()}
    assert sizes == {
        "small.jpg": (60, 40),
        "small.png": (60, 40),
        "small-turned.jpg": (40, 60),
        "tall.png": (50, 222),
        "turned.jpg": (50, 100),
        "wide.jpg": (150, 50),
    }
    assert rows["small.jpg"]["bytes"] == small
    for name, row in rows.items():
        with Image.open(BytesIO(row["bytes"])) as image:
            assert (image.format, image.size) == ("JPEG", sizes[name])
            assert not image.getexif()
        target = Target(width_px=24, height_px=24)
        before = decode((folder / name).read_bytes(), target, settings.image).pixels
        after = decode(row["bytes"], target, settings.image).pixels
        assert abs(before.astype(int) - after.astype(int)).mean() < 3


def test_a_panorama_is_shrunk_to_the_limit_of_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "photos" / "long.png"
    path.parent.mkdir()
    Image.new("L", (70_000, 20), 99).save(path)
    settings = config(embed={"max_side_px": 64})
    make_dataset(tmp_path / "out", folder_rows(path.parent), settings)
    (row,) = rows_of(tmp_path / "out").values()
    assert (row["width_px"], row["height_px"]) == (65_500, 19)


def test_members_of_a_tar_are_read_where_they_lie(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    files = {f"{n}.jpg": picture(folder / f"{n}.jpg", n) for n in range(5)}
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "photos")
    with tarfile.open(path) as tar:
        rows = [
            {
                "image_id": member.name.removeprefix("photos/"),
                "uri": str(path),
                "offset_bytes": member.offset_data,
                "size_bytes": member.size,
                "caption": "a member",
            }
            for member in tar
            if member.isfile()
        ]
    beyond = {**rows[0], "image_id": "beyond.jpg", "offset_bytes": 10**9}
    record = make_dataset(tmp_path / "out", [*rows, beyond], config())
    found = rows_of(tmp_path / "out")
    assert {image_id: row["bytes"] for image_id, row in found.items()} == files
    assert record.rejected_images == {"empty": 1}
    with pytest.raises(ConfigError, match=r"set\.tar.*embed\.enabled"):
        make_dataset(tmp_path / "referenced", rows, config(embed={"enabled": False}))


def test_images_in_a_table_are_read_at_their_rows(tmp_path: Path) -> None:
    files = {f"{n}.jpg": picture(tmp_path / f"{n}.jpg", n) for n in range(5)}
    path = tmp_path / "set.parquet"
    images = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"image": images}), path, row_group_size=2)
    rows = [
        {"image_id": name, "uri": str(path), "offset_bytes": n, "caption": "a row"}
        for n, name in enumerate([*files, "beyond.jpg"])
    ]
    record = make_dataset(tmp_path / "out", rows, config())
    found = rows_of(tmp_path / "out")
    assert {image_id: row["bytes"] for image_id, row in found.items()} == files
    assert record.rejected_images == {"decode_failed": 1}


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_duplicates_share_a_split_that_is_the_same_in_every_subset(
    tmp_path: Path, share: float
) -> None:
    folder = tmp_path / "photos"
    write_twins(folder, 90, 25)
    settings = config(subset=share)
    record = make_dataset(tmp_path / "out", folder_rows(folder), settings)
    rows = rows_of(tmp_path / "out")
    every = [f"{number:03d}.jpg" for number in range(90)]
    assert set(rows) == {i for i in every if rank_of(i) < subset_limit(share)}
    assert record.num_images_not_in_subset == 90 - len(rows)
    assert record.num_captions_not_in_subset == 2 * (90 - len(rows))
    for image_id, row in rows.items():
        twins = [i for i in every if int(i[:3]) % 25 == int(image_id[:3]) % 25]
        first = min(twins, key=rank_of)
        assert row["split"] == hashed_split(first, settings.split)
    groups: dict[str, list[str]] = {}
    for image_id, row in rows.items():
        groups.setdefault(row["digest"], []).append(image_id)
    several = [ids for ids in groups.values() if len(ids) > 1]
    moved = [i for i, row in rows.items() if row["split"] != hashed_split(i, settings.split)]
    assert record.duplicates.num_groups == len(several) > 0
    assert record.duplicates.num_images == sum(map(len, several))
    assert record.duplicates.num_moved == len(moved) > 0
    assert record.leakage.num_groups == 0


def test_only_parts_with_moved_images_are_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for number in range(64):
        picture(folder / f"{number:03d}.jpg", seed=number)
    twins = [i for i in range(64) if hashed_split(f"{i:03d}.jpg", config().split) == "train"]
    other = next(i for i in range(64) if hashed_split(f"{i:03d}.jpg", config().split) == "test")
    first, second = twins[0], other
    picture(folder / f"{second:03d}.jpg", seed=first)
    store = open_store(str(tmp_path / "out"), StorageConfig())
    plan = write_plan(store, [annotations(folder_rows(folder))], config(), MARK)
    build(store, plan, config())
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("t*/part-*.parquet")}
    record = finish(store, plan, config())
    assert record.duplicates.num_moved == 1
    changed = {path for path, time in parts.items() if path.stat().st_mtime_ns != time}
    moved = min((first, second), key=lambda i: -rank_of(f"{i:03d}.jpg"))
    assert {path.name for path in changed} == {f"part-{moved // 16:06d}.parquet"}


def test_given_splits_are_kept_and_leakage_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_twins(folder, 24, 8)
    rows = folder_rows(folder)
    for row in rows:
        number = int(row["image_id"][:3])
        row["split"] = None if number >= 16 else "train" if number < 8 else "test"
    record = make_dataset(tmp_path / "out", rows, config())
    found = rows_of(tmp_path / "out")
    for number in range(16):
        assert found[f"{number:03d}.jpg"]["split"] == ("train" if number < 8 else "test")
    for number in range(16, 24):
        twins = [f"{number - step:03d}.jpg" for step in (16, 8, 0)]
        first = min(twins, key=rank_of)
        own = hashed_split(twins[2], config().split)
        assert found[twins[2]]["split"] == (own if first == twins[2] else found[first]["split"])
    assert (record.leakage.num_groups, record.leakage.num_images) == (8, 24)
    assert len(record.leakage.examples) == 5
    assert record.leakage.examples[0].keys() >= {"train", "test"}
    assert record.leakage.examples[0]["train"] == "000.jpg"


def test_a_run_killed_while_it_moves_duplicates_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_twins(folder, 60, 20)
    whole = tmp_path / "whole"
    make_dataset(whole, folder_rows(folder), config())
    broken = tmp_path / "broken"
    store = open_store(str(broken), StorageConfig())
    plan = write_plan(store, [annotations(folder_rows(folder))], config(), MARK)
    build(store, plan, config())
    before = files_of(broken)
    with scratch_database(200_000_000) as database:
        load_answers(database, store, plan, 2)
        find_duplicates(database)
        moving = write_moves(database, store)
    build(store, plan, config(), numbers=moving, is_moving=True)
    # As if killed before the answers, with one file of each part new, one old and one gone.
    for number in moving:
        answers, train = (part_key(folder, number) for folder in (ANSWERED_PARTS, "train/"))
        store.write(answers, before[answers])
        store.write(train, before[train])
        store.delete(part_key("test/", number))
    finish(store, plan, config())
    assert files_of(broken) == files_of(whole)


def test_a_dataset_of_which_every_image_is_unreadable_is_empty(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "uri": str(tmp_path / "gone.jpg"), "caption": "x"}]
    record = make_dataset(tmp_path / "out", rows, config())
    assert (record.num_images, record.splits, record.megapixels) == (0, {}, {})
    assert record.rejected_images == record.rejected_captions == {"not_found": 1}
    assert list(open_dataset(tmp_path / "out", StorageConfig()).references()) == []


def test_a_source_without_any_image_is_an_error(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "caption": "without image"}]
    with pytest.raises(DatasetError, match=r"1 no_image") as caught:
        make_dataset(tmp_path / "out", rows, config())
    assert caught.value.uri == MARK["source"]
    with pytest.raises(DatasetError) as caught:
        make_dataset(tmp_path / "none", [], config())
    assert caught.value.uri == MARK["source"]


def test_addresses_that_no_file_can_have_are_rows(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    picture(folder / "good.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    names = ["good.jpg", "loop.jpg", "x" * 300 + ".jpg", "nul\0.jpg", "", "..", "good.jpg/1.jpg"]
    rows = [{"image_id": name, "uri": f"{folder}/{name}", "caption": "x"} for name in names]
    record = make_dataset(tmp_path / "out", rows, config())
    assert (record.num_images, record.rejected_images) == (1, {"not_found": 6})


def test_a_store_that_refuses_stops_the_run(tmp_path: Path) -> None:
    rows = [{"image_id": "a", "uri": "s3://bucket/a.jpg", "caption": "x"}]
    with pytest.raises(StorageError) as caught:
        make_dataset(tmp_path / "out", rows, config())
    assert caught.value.setting == "storage.anonymous"


def test_folders_of_splits_that_do_not_count_are_told(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(["a/train/0.jpg", "a/val2017/1.jpg", "a/tests/2.jpg", "3.jpg"]):
        picture(photos / name, number)
    record = make_dataset(tmp_path / "out", folder_rows(photos), config())
    (note,) = record.notes
    assert note.startswith("2 ")
    assert "a/train/0.jpg" in note
    rows = [{**row, schema.SPLIT: "test"} for row in folder_rows(photos)]
    assert make_dataset(tmp_path / "given", rows, config()).notes == []


def test_captions_in_several_scripts_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "1.jpg")
    rows = folder_rows(tmp_path / "photos")
    plain = make_dataset(tmp_path / "plain", rows, config())
    assert plain.notes == []
    rows[0] |= {schema.CAPTION: "\u043a\u043e\u0442 \u0438 \u043f\u0451\u0441"}
    (note,) = make_dataset(tmp_path / "mixed", rows, config()).notes
    assert "Cyrillic, Latin" in note


def test_a_worker_of_a_run_that_was_taken_over_writes_nothing(tmp_path: Path) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    picture(folder / "a.jpg")
    settings = config()
    store = open_store(str(output), settings.storage)
    plan = write_plan(store, [annotations(folder_rows(folder))], settings, MARK)
    with store.lock(LOCK) as lock:
        former = lock.token
    with store.lock(LOCK) as lock:
        before = set(output.rglob("*"))
        with pytest.raises(RunConflict) as caught:
            build(store, plan, settings, lock_token=former)
        assert caught.value.uri == str(output)
        assert set(output.rglob("*")) == before
        assert build(store, plan, settings, lock_token=lock.token) == 0
    assert set(output.rglob("*")) > before
