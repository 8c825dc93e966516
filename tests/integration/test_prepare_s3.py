"""`prepare` from a bucket into a bucket, on moto's S3 server as a process."""

import json
import tarfile
from io import BytesIO
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
from raycap.errors import BucketNotFound, RunConflict
from tests.conftest import S3, RequestLog
from tests.support.caption_sets import picture

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

STORAGE = StorageConfig(timeout_s=5, num_retries=1)
NUM_IMAGES = 40


def config(**sections: Any) -> PrepareConfig:
    sections.setdefault("engine", {"part_size": 16})
    sections.setdefault("split", {"validation": 0.3, "test": 0.3})
    sections.setdefault("storage", {"timeout_s": 5, "num_retries": 1})
    return validate_config(PrepareConfig, sections)


@pytest.fixture
def source(s3: S3, tmp_path: Path) -> dict[str, bytes]:
    """Put images and their captions into the bucket; give the images."""
    files, lines = {}, []
    for number in range(NUM_IMAGES):
        name = f"{number % 3}/{number:03d}.jpg"
        files[name] = picture(tmp_path / name, seed=number % 25)
        s3.put(f"photos/{name}", files[name])
        lines.append({"file_name": name, "captions": [f"picture {number}", "another"]})
    s3.put("photos/metadata.jsonl", "\n".join(map(json.dumps, lines)).encode())
    return files


def test_a_bucket_becomes_a_dataset_in_a_bucket_reading_every_image_once(
    s3: S3, s3_log: RequestLog, source: dict[str, bytes]
) -> None:
    record = prepare(f"{s3.uri}/photos", f"{s3.uri}/out", config=config())
    assert (record.num_images, record.num_captions) == (NUM_IMAGES, 2 * NUM_IMAGES)
    assert record.duplicates.num_moved > 0
    reads = s3_log.image_reads(s3.bucket)
    assert set(reads.values()) == {1}
    assert len(reads) == NUM_IMAGES
    dataset = open_dataset(f"{s3.uri}/out", STORAGE)
    table = pa.concat_tables(dataset.pages())
    embedded = zip(table[schema.IMAGE_ID], table[schema.BYTES], strict=True)
    assert {image_id.as_py(): data.as_py() for image_id, data in embedded} == source
    some = sorted(source)[3:7]
    assert dict(dataset.images(some)) == {name: source[name] for name in some}
    groups: dict[str, set[str]] = {}
    for digest, split in zip(table[schema.DIGEST], table[schema.SPLIT], strict=True):
        groups.setdefault(digest.as_py(), set()).add(split.as_py())
    assert {len(splits) for splits in groups.values()} == {1}
    listed = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="out/")["Contents"]
    keys = {item["Key"] for item in listed}
    parts = {f"out/{key}" for split in dataset.splits for key in dataset.parts(split)}
    fixed = {"out/dataset.json", "out/lock.json", "out/parts.parquet", "out/rejected.parquet"}
    assert keys == {*fixed, *parts}
    assert prepare(f"{s3.uri}/photos", f"{s3.uri}/out", config=config()) == record
    with pytest.raises(RunConflict):
        prepare(f"{s3.uri}/photos", f"{s3.uri}/out", config=config(subset=0.5))


def test_captions_are_read_without_the_images(
    s3: S3, s3_log: RequestLog, source: dict[str, bytes]
) -> None:
    prepare(f"{s3.uri}/photos", f"{s3.uri}/out", config=config(engine={}))
    before = len(s3_log.file.read_text(errors="replace"))
    references = read_references(f"{s3.uri}/out", STORAGE)
    table = pa.concat_tables(references.tables)
    assert table[schema.IMAGE_ID].to_pylist() == sorted(source)
    log = s3_log.file.read_text(errors="replace")[before:]
    reads = [line for line in log.splitlines() if "GET" in line and "/part-" in line]
    assert reads
    assert all(" 206 " in line for line in reads)


def test_referenced_images_of_a_bucket_are_fetched_from_it(
    s3: S3, source: dict[str, bytes]
) -> None:
    settings = config(embed={"enabled": False})
    prepare(f"{s3.uri}/photos", f"{s3.uri}/out", config=settings)
    dataset = open_dataset(f"{s3.uri}/out", STORAGE)
    assert dict(dataset.images(sorted(source)[:3])) == {n: source[n] for n in sorted(source)[:3]}
    key = dataset.parts("train")[0]
    body = s3.client.get_object(Bucket=s3.bucket, Key=f"out/{key}")["Body"].read()
    table = pq.read_table(BytesIO(body))
    assert table[schema.BYTES].null_count == len(table)
    assert table[schema.URI][0].as_py() == f"{s3.uri}/photos/{table[schema.IMAGE_ID][0]}"


def test_tars_of_a_bucket_are_read_by_their_members(
    s3: S3, s3_log: RequestLog, source: dict[str, bytes]
) -> None:
    for split, names in (("train", sorted(source)[:30]), ("val", sorted(source)[30:])):
        sink = BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for name in names:
                for member, data in ((name, source[name]), (f"{name[:-4]}.txt", b"one\ntwo")):
                    header = tarfile.TarInfo(member)
                    header.size = len(data)
                    tar.addfile(header, BytesIO(data))
        s3.put(f"tars/{split}-0.tar", sink.getvalue())
    before = s3_log.image_reads(s3.bucket).total()
    record = prepare(f"{s3.uri}/tars", f"{s3.uri}/out", config=config())
    assert (record.format, record.num_images, record.num_captions) == ("webdataset", 40, 80)
    assert {name: split.num_images for name, split in record.splits.items()} == {
        "train": 30,
        "validation": 10,
    }
    assert record.leakage.num_groups > 0  # the same pictures in both, as the tars have them
    table = pa.concat_tables(open_dataset(f"{s3.uri}/out", STORAGE).pages())
    stored = zip(table[schema.IMAGE_ID], table[schema.BYTES], strict=True)
    assert {image_id.as_py(): data.as_py() for image_id, data in stored} == source
    assert s3_log.image_reads(s3.bucket).total() == before


def test_a_bucket_that_is_not_there_is_told_in_one_line(s3: S3, source: dict[str, bytes]) -> None:
    del source
    with pytest.raises(BucketNotFound) as caught:
        prepare(f"{s3.uri}/photos", "s3://no-such-bucket-here/out", config=config())
    assert "\n" not in str(caught.value)
