"""Export from and to a bucket, on moto's S3 server."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pytest

from raycap import schema
from raycap.captioning.parts import (
    CAPTIONS,
    MANIFEST,
    encode_captions,
    encode_manifest,
    manifest_footer,
)
from raycap.config import ExportFormat, StorageConfig
from raycap.errors import BucketNotFound, ConfigError
from raycap.exporting.export import export
from raycap.storage.parts import part_key
from raycap.storage.stores import open_store

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class S3(Protocol):
    """What these tests use of the fixture `s3`."""

    bucket: str
    client: "S3Client"

    @property
    def uri(self) -> str: ...

    def put(self, key: str, data: bytes = b"x") -> None: ...


CONFIG = StorageConfig(num_retries=0, timeout_s=20)


@pytest.fixture
def output(s3: S3, make_jpeg: Callable[..., bytes]) -> str:
    """Write two images and the output of a run over them into a bucket."""
    store = open_store(f"{s3.uri}/output", CONFIG)
    store.write("run.json", b"{}")
    for number, name in enumerate(("a/1.jpg", "b/2.jpg")):
        s3.put(f"images/{name}", make_jpeg(seed=number))
        uri = f"{s3.uri}/images/{name}"
        manifest = pa.table([[name], [uri], [1], ["e"], [None]], schema=schema.MANIFEST)
        data = encode_manifest(manifest, manifest_footer(manifest))
        store.write(part_key(MANIFEST, number), data)
        etag = s3.client.head_object(Bucket=s3.bucket, Key=f"images/{name}")["ETag"].strip('"')
        rows = [[name], [uri], [etag], ["ok"], [None], [None], [1], [f"image {number}"]]
        rows += [[2], [-0.5], [64], [48], ["m"], [[]], ["stop"], [3], [None], [None], [None]]
        captions = pa.table(rows, schema=schema.CAPTIONS)
        data, _ = encode_captions(captions, num_bytes=1, revision=0)
        store.write(part_key(CAPTIONS, number), data)
    return store.uri


def read(s3: S3, key: str) -> bytes:
    return s3.client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()


def keys(s3: S3, prefix: str) -> list[str]:
    found = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"].removeprefix(prefix) for item in found]


def test_a_bucket_is_exported_to_one_object_and_replaced_only_by_force(
    s3: S3, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = f"{s3.uri}/x/captions.jsonl"
    s3.put("x/captions.jsonl", b"precious")
    with pytest.raises(ConfigError, match=r"\b1 .*\(captions\.jsonl\)"):
        export(output, target, to=ExportFormat.JSONL, storage=CONFIG)
    export(output, target, to=ExportFormat.JSONL, existing="overwrite", storage=CONFIG)
    lines = read(s3, "x/captions.jsonl").splitlines()
    assert [json.loads(line)["caption"] for line in lines] == ["image 0", "image 1"]
    assert list(tmp_path.iterdir()) == []  # the local temporary files are gone


def test_an_empty_object_stands_in_the_way_as_well(s3: S3, output: str) -> None:
    s3.put("x/captions.csv", b"")
    with pytest.raises(ConfigError, match=r"\b1 .*\(captions\.csv\)"):
        export(output, f"{s3.uri}/x/captions.csv", to=ExportFormat.CSV, storage=CONFIG)


def test_sidecars_go_beside_the_images_of_a_bucket(s3: S3, output: str) -> None:
    images = f"{s3.uri}/images"
    for _ in range(2):
        counts = export(output, images, to=ExportFormat.SIDECAR, storage=CONFIG)
        assert counts.num_exported == 2
    assert keys(s3, "images/") == ["a/1.jpg", "a/1.txt", "b/2.jpg", "b/2.txt"]
    assert read(s3, "images/b/2.txt") == b"image 1\n"
    s3.put("images/a/1.txt", b"")
    with pytest.raises(ConfigError, match=r"\b1 .*\(a/1\.txt\)"):
        export(output, images, to=ExportFormat.SIDECAR, storage=CONFIG)
    export(output, images, to=ExportFormat.SIDECAR, existing="overwrite", storage=CONFIG)
    assert read(s3, "images/a/1.txt") == b"image 0\n"


def test_files_of_people_beside_the_images_of_a_bucket_are_added_to(s3: S3, output: str) -> None:
    images = f"{s3.uri}/images"
    s3.put("images/a/1.txt", b"mine")
    s3.put("images/b/2.txt", b"")
    s3.put("images/metadata.jsonl", b'{"file_name": "a/1.jpg", "text": "mine"}\n')
    choice: dict[str, Any] = {"existing": "import", "storage": CONFIG}
    for _ in range(2):
        export(output, images, to="metadata", columns="caption as text, width_px", **choice)
        export(output, images, to="sidecar", **choice)
        export(output, images, to="xmp", **choice)
    assert read(s3, "images/metadata.jsonl") == (
        b'{"file_name": "a/1.jpg", "text": "mine", "width_px": 64}\n'
        b'{"file_name": "b/2.jpg", "text": "image 1", "width_px": 64}\n'
    )
    assert (read(s3, "images/a/1.txt"), read(s3, "images/b/2.txt")) == (b"mine", b"image 1\n")
    assert b">image 0<" in read(s3, "images/a/1.jpg.xmp")
    s3.put("tables/t.csv", b"image_id,stars\na/1.jpg,5\n")
    table = f"{s3.uri}/tables/t.csv"
    target = f"{s3.uri}/x/best.csv"
    counts = export(
        output, target, to="csv", join=table, where="stars > 4", columns="image_id", storage=CONFIG
    )
    assert (counts.num_exported, counts.num_left_out) == (1, 1)
    assert read(s3, "x/best.csv") == b"image_id\r\na/1.jpg\r\n"


def test_tars_are_made_of_a_bucket_in_a_bucket(s3: S3, output: str) -> None:
    target = f"{s3.uri}/tars"
    s3.client.delete_object(Bucket=s3.bucket, Key="images/b/2.jpg")
    counts = export(output, target, to=ExportFormat.WEBDATASET, storage=CONFIG)
    assert (counts.num_exported, counts.num_unreadable) == (1, 1)
    (unreadable,) = counts.unreadable
    assert unreadable.startswith(f"{s3.uri}/images/b/2.jpg: ")
    assert keys(s3, "tars/") == ["part-000000.tar", "part-000001.tar"]
    with tarfile.open(fileobj=io.BytesIO(read(s3, "tars/part-000000.tar"))) as tar:
        image = tar.extractfile("000000_000000.jpg")
        assert image is not None
        assert image.read() == read(s3, "images/a/1.jpg")


def test_a_large_file_is_uploaded_in_parts(s3: S3, tmp_path: Path) -> None:
    file = tmp_path / "large"
    data = os.urandom(1 << 20) * 20
    file.write_bytes(data)
    open_store(s3.uri, CONFIG).upload("x/large", file)
    head = s3.client.head_object(Bucket=s3.bucket, Key="x/large")
    assert head["ETag"].strip('"').endswith("-3")  # S3's mark of an upload in three parts
    assert read(s3, "x/large") == data


def test_a_bucket_that_does_not_exist_is_told_in_one_line(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = "s3://no-such-bucket/x.csv"
    with pytest.raises(BucketNotFound) as caught:
        export(output, target, to=ExportFormat.CSV, existing="overwrite", storage=CONFIG)
    assert caught.value.uri == target
    assert list(tmp_path.iterdir()) == []
