"""`prepare` on a local Ray: from annotations to a dataset, again, after a kill, without network."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap import schema
from raycap.config import PrepareConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.datasets.dataset import open_dataset
from raycap.datasets.prepare import prepare
from raycap.datasets.references import read_references
from raycap.errors import ConfigError, DatasetError, RunConflict, RunStopped
from raycap.progress import Progress
from raycap.results.dataset import DatasetRecord
from raycap.storage.stores import open_store
from tests.support.caption_sets import folder_rows, make_dataset, picture
from tests.support.commandline import ray_processes_of, wait_until
from tests.support.faulty_http import (
    FaultyServer,
    Handler,
    Reply,
    TrueReply,
    faulty_server,
    refused,
)

pytestmark = pytest.mark.usefixtures("ray_session")

STORAGE = StorageConfig()


def config(**sections: Any) -> PrepareConfig:
    sections.setdefault("engine", {"part_size": 16})
    sections.setdefault("split", {"validation": 0.3, "test": 0.3})
    return validate_config(PrepareConfig, sections)


def rows_of(output: Path | str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.concat_tables(open_dataset(output, STORAGE).pages()).to_pylist()
    return rows


def files_of(output: Path) -> dict[str, bytes]:
    """Every file but the record and the lock, which tell of the run."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in ("dataset.json", "lock.json")
    }


def write_source(folder: Path, count: int, num_kinds: int | None = None) -> list[dict[str, Any]]:
    """Write images beside a `metadata.jsonl`; give its lines."""
    for number in range(count):
        picture(folder / f"{number:03d}.jpg", seed=number % (num_kinds or count))
    lines = [
        {"file_name": row["image_id"], "caption": row["caption"]} for row in folder_rows(folder)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return lines


@dataclass(frozen=True)
class Prepared:
    """A folder that was prepared, one image broken; no test writes to its output."""

    photos: Path
    output: Path
    lines: list[dict[str, Any]]
    record: DatasetRecord
    seen: list[Progress]


@pytest.fixture(scope="module")
def prepared(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    del ray_session
    folder = tmp_path_factory.mktemp("prepared")
    photos, output = folder / "photos", folder / "out"
    lines = write_source(photos, 70, num_kinds=50)
    (photos / "003.jpg").write_bytes(b"no image")
    seen: list[Progress] = []
    record = prepare(photos, output, config=config(), on_progress=seen.append)
    return Prepared(photos, output, lines, record, seen)


def test_a_folder_becomes_a_dataset_as_without_ray(prepared: Prepared, tmp_path: Path) -> None:
    record, seen, output = prepared.record, prepared.seen, prepared.output
    assert (record.num_images, record.num_captions, record.format) == (69, 138, "metadata")
    assert record.rejected_images == {"unsupported_format": 1}
    assert record.duplicates.num_moved > 0
    names = {path.name for path in output.iterdir()}
    assert names == {
        *("train", "validation", "test"),
        *("dataset.json", "parts.parquet", "rejected.parquet", "lock.json"),
    }
    assert (seen[-1].num_done, seen[-1].num_total, seen[-1].num_failed) == (70, 70, 1)
    assert seen[-1].images_per_s > 0
    for row in rows_of(output):
        image = prepared.photos / row["image_id"]
        assert row["bytes"] == image.read_bytes()
        assert row["uri"] == str(image)
        said = [line["caption"] for line in prepared.lines if line["file_name"] == row["image_id"]]
        assert row["captions"] == said
    by_hand = [row for row in folder_rows(prepared.photos) if row["image_id"].endswith("jpg")]
    make_dataset(tmp_path / "by-hand", by_hand, config())
    assert files_of(output) == files_of(tmp_path / "by-hand")


def test_the_same_call_has_nothing_to_do_and_another_is_refused(prepared: Prepared) -> None:
    photos, output = prepared.photos, prepared.output
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.*")}
    seen: list[Progress] = []
    # What is not part of the content may differ.
    other_engine = config(engine={"part_size": 5})
    again = prepare(photos, output, config=other_engine, on_progress=seen.append)
    assert again == prepared.record
    assert not seen
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*.*")}
    assert {path for path in after if after[path] != before[path]} <= {output / "lock.json"}
    with pytest.raises(RunConflict) as caught:
        prepare(photos, output, config=config(subset=0.5))
    assert "- subset = 1.0\n  + subset = 0.5" in str(caught.value)


def test_a_complete_dataset_whose_source_has_changed_is_told(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    write_source(source, 3)
    record = prepare(source, output, config=config())
    assert prepare(source, output, config=config()) == record
    write_source(source, 4)
    with pytest.raises(RunConflict) as caught:
        prepare(source, output, config=config())
    assert str(output) in str(caught.value)
    assert len(rows_of(output)) == 3
    plain = json.loads((output / "dataset.json").read_text())
    plain.pop("source_state")  # as version 0.1 wrote it
    (output / "dataset.json").write_text(json.dumps(plain))
    assert prepare(source, output, config=config()).num_images == 3


def test_subsets_are_nested_and_keep_their_splits(tmp_path: Path) -> None:
    write_source(tmp_path / "photos", 80, num_kinds=30)
    rows = [row for row in folder_rows(tmp_path / "photos") if row["image_id"].endswith("jpg")]
    found = []
    for share in (0.25, 0.5, 1.0):
        output = tmp_path / f"out-{share}"
        record = make_dataset(output, rows, config(subset=share))
        found.append({row["image_id"]: row["split"] for row in rows_of(output)})
        assert record.num_images + record.num_images_not_in_subset == 80
    assert 0 < len(found[0]) < len(found[1]) < len(found[2]) == 80
    assert found[0].items() <= found[1].items() <= found[2].items()


def test_an_output_with_other_files_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path / "photos", 3)
    with pytest.raises(ConfigError, match=r"photos: .*\(000\.jpg\)"):
        prepare(tmp_path / "photos", tmp_path / "photos", config=config())


def test_a_source_whose_images_are_not_found_leaves_an_output_that_can_be_used(
    tmp_path: Path,
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "out"
    write_source(folder, 4)
    (folder / "metadata.jsonl").rename(tmp_path / "captions.jsonl")
    with pytest.raises(DatasetError, match=r"4 not_found; .*000\.jpg.*--images") as caught:
        prepare(tmp_path / "captions.jsonl", output, config=config())
    assert "\n" not in str(caught.value)
    record = prepare(tmp_path / "captions.jsonl", output, images=folder, config=config())
    assert record.num_images == 4


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


def put_pages(server: FaultyServer, tmp_path: Path, count: int) -> Path:
    """Put images on a web server; give a table of them."""
    lines = []
    for number in range(count):
        data = picture(tmp_path / "web" / f"{number:03d}.jpg", seed=number)
        server.pages[f"/{number:03d}.jpg"] = Reply(body=data)
        lines.append({"url": f"{server.url}/{number:03d}.jpg", "caption": f"picture {number}"})
    table = tmp_path / "captions.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return table


def requests_of(server: FaultyServer) -> Counter[str]:
    return Counter(path for _, path, _ in server.requests)


def test_images_that_cannot_be_fetched_for_now_are_fetched_by_the_next_run_alone(
    server: FaultyServer, tmp_path: Path
) -> None:
    table = put_pages(server, tmp_path, 40)
    server.pages["/007.jpg"] = Reply(status=500)
    server.pages["/020.jpg"] = Reply(status=503)
    server.pages["/021.jpg"] = Reply(status=404)
    settings = config(storage={"timeout_s": 1, "num_retries": 0})
    seen: list[Progress] = []
    with pytest.raises(RunStopped, match=r"2 images .*\(http") as caught:
        prepare(table, tmp_path / "out", config=settings, on_progress=seen.append)
    assert "38 of 40" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (seen[-1].num_done, seen[-1].num_failed) == (38, 1)
    with pytest.raises(DatasetError, match="raycap prepare"):
        open_dataset(tmp_path / "out", STORAGE)
    before = requests_of(server)
    for number in (7, 20):
        body = (tmp_path / "web" / f"{number:03d}.jpg").read_bytes()
        server.pages[f"/{number:03d}.jpg"] = Reply(body=body)
    record = prepare(table, tmp_path / "out", config=settings)
    assert record.rejected_images == {"not_found": 1}
    assert record.num_images == 39
    assert requests_of(server) - before == Counter({"/007.jpg": 1, "/020.jpg": 1})
    prepare(table, tmp_path / "whole", config=settings)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_source_that_is_down_is_not_asked_for_every_image(
    server: FaultyServer, tmp_path: Path
) -> None:
    table = put_pages(server, tmp_path, 200)
    server.faults.extend([refused(500)] * 1000)
    settings = config(
        engine={"part_size": 100, "fetch_threads": 4}, storage={"timeout_s": 1, "num_retries": 0}
    )
    with pytest.raises(RunStopped, match="200 images"):
        prepare(table, tmp_path / "out", config=settings)
    assert 64 <= len(server.requests) < 100
    server.faults.clear()
    assert prepare(table, tmp_path / "out", config=settings).num_images == 200


KILLED = """
import sys
from raycap.config import PrepareConfig
from raycap.datasets.prepare import prepare
from raycap.results.dataset import DatasetRecord
settings = {"engine": {"part_size": 5, "fetch_threads": 1}, "storage": {"num_retries": 0}}
prepare(sys.argv[1], sys.argv[2], config=PrepareConfig.model_validate(settings))
"""


def slow(handler: Handler, reply: TrueReply) -> None:
    time.sleep(0.1)
    handler.send(reply())


@pytest.mark.slow
def test_kill_9_midway_and_the_same_call_give_the_files_of_an_undisturbed_run(
    server: FaultyServer, tmp_path: Path
) -> None:
    table = put_pages(server, tmp_path, 100)
    server.faults.extend([slow] * 10_000)
    output, home = tmp_path / "killed", tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", KILLED, str(table), str(output)]
    environment = {**os.environ, "HOME": str(home), "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    answered = output / "_work" / "answered"
    try:
        while len(list(answered.glob("part-*.parquet"))) < 5:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not ray_processes_of(home))
    done = {path.name for path in answered.glob("part-*.parquet")}
    parts = {p: p.stat().st_mtime_ns for p in output.glob("t*/part-*") if p.name in done}
    assert 5 <= len(done) < 20
    before = requests_of(server)
    server.faults.clear()
    settings = config(engine={"part_size": 5}, split={}, storage={"num_retries": 0})
    record = prepare(table, output, config=settings)
    assert record.num_images == 100
    fetched = requests_of(server) - before
    assert len(fetched) == fetched.total() == 100 - 5 * len(done)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    prepare(table, tmp_path / "whole", config=settings)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_references_are_the_same_from_a_dataset_and_from_its_annotations(tmp_path: Path) -> None:
    lines = write_source(tmp_path / "photos", 30)
    with (tmp_path / "photos" / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "000.jpg", "caption": " "}) + "\n")
    prepare(tmp_path / "photos", tmp_path / "out", config=config())
    ours = read_references(tmp_path / "out", STORAGE)
    theirs = read_references(tmp_path / "photos", STORAGE)
    assert (ours.is_dataset, theirs.is_dataset) == (True, False)
    assert ours.source == str(tmp_path / "out")
    one, other = (pa.concat_tables(found.tables) for found in (ours, theirs))
    texts = [schema.IMAGE_ID, schema.URI, schema.CAPTIONS_LIST]
    assert one.select(texts).equals(other.select(texts))
    assert sum(map(len, one[schema.CAPTIONS_LIST].to_pylist())) == len(lines)
    assert (ours.dropped, theirs.dropped) == ({}, {"empty_caption": 1})
    some = pa.concat_tables(read_references(tmp_path / "out", STORAGE, splits=["val"]).tables)
    assert set(some[schema.SPLIT].to_pylist()) == {"validation"}


def test_references_of_annotations_may_be_those_of_a_split(tmp_path: Path) -> None:
    write_source(tmp_path / "photos" / "train", 3)
    write_source(tmp_path / "photos" / "test", 2)
    found = read_references(tmp_path / "photos", STORAGE, splits=["test"])
    assert sum(map(len, found.tables)) == 2
    none = read_references(tmp_path / "photos", STORAGE, splits=["val"])
    with pytest.raises(DatasetError, match=r"validation.* test \(2 images\), tr"):
        list(none.tables)


def test_an_unfinished_dataset_is_no_reference(tmp_path: Path) -> None:
    write_source(tmp_path / "photos", 3)
    make_dataset(tmp_path / "out", folder_rows(tmp_path / "photos")[:6], config())
    (tmp_path / "out" / "dataset.json").unlink()
    open_store(str(tmp_path / "out"), STORAGE).write("_work/plan.json", b"{}")
    with pytest.raises(DatasetError, match="raycap prepare"):
        read_references(tmp_path / "out", STORAGE)


def test_real_photos_keep_all_their_captions(real_photos: Path, tmp_path: Path) -> None:
    source = real_photos.parent  # captions.jsonl beside images/, as it is
    said = {
        line["file_name"]: line["captions"]
        for line in map(json.loads, (source / "captions.jsonl").read_text().splitlines())
    }
    settings = config(engine={"part_size": 64}, embed={"max_side_px": 224})
    record = prepare(source, tmp_path / "out", config=settings)
    assert (record.format, record.num_images, record.num_captions) == ("metadata", 152, 760)
    assert record.rejected_images == record.rejected_captions == {}
    assert set(record.splits) == {"train", "validation", "test"}
    rows = rows_of(tmp_path / "out")
    assert {row["image_id"]: row["captions"] for row in rows} == said
    assert {min(row["width_px"], row["height_px"]) for row in rows} == {224}
    assert len(pq.read_table(tmp_path / "out" / "rejected.parquet")) == 0
    smaller = sum(len(row["bytes"]) for row in rows)
    assert smaller < record.num_source_bytes / 2
    assert record.num_source_bytes == sum(path.stat().st_size for path in real_photos.iterdir())


@pytest.mark.slow
def test_real_photos_are_the_same_dataset_from_the_table_itself(
    real_photos: Path, tmp_path: Path
) -> None:
    whole = prepare(real_photos.parent, tmp_path / "folder", config=config())
    table = real_photos.parent / "captions.jsonl"
    named = prepare(table, tmp_path / "table", images=real_photos, config=config())
    assert named.splits == whole.splits
    assert files_of(tmp_path / "table") == files_of(tmp_path / "folder")
    sizes = {path.name: path.stat().st_size for path in real_photos.iterdir()}
    assert {r["image_id"]: len(r["bytes"]) for r in rows_of(tmp_path / "folder")} == sizes
