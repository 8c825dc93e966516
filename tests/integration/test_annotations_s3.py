"""Annotations of every format in a bucket: recognised and read as in a folder of this machine."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycap.errors import ConfigError, DatasetError
from tests.conftest import S3
from tests.support.annotated import format_of, read, write

pytestmark = pytest.mark.slow

ROWS: list[dict[str, Any]] = [
    {"file_name": f"{number}.jpg", "caption": f"text {number}", "split": "train"}
    for number in range(3)
]
COCO = {
    "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)],
    "annotations": [{"image_id": number % 3, "caption": f"text {number}"} for number in range(5)],
}
KARPATHY = {"images": [{"filename": "1.jpg", "sentences": [{"raw": "one"}], "split": "val"}]}


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name, data in (("a.jpg", b"image"), ("a.txt", b"one\ntwo"), ("b.jpg", b"x")):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.addfile(header, io.BytesIO(data))
    return sink.getvalue()


def table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


LINES = "\n".join(map(json.dumps, ROWS))
SOURCES: dict[str, dict[str, str | bytes]] = {
    "coco": {"annotations/captions_val2014.json": json.dumps(COCO), "val2014/0.jpg": "x"},
    "karpathy": {"dataset_flickr8k.json": json.dumps(KARPATHY), "Images/1.jpg": "x"},
    "flickr": {"captions.txt": "1.jpg#0\tone\n2.jpg#0\ttwo\n", "Images/1.jpg": "x"},
    "metadata": {"captions.jsonl": LINES, "images/0.jpg": "x"},
    "sidecar": {"val/1.jpg": "x", "val/1.txt": "one\ntwo", "val/2.png": "x"},
    "table": {"train-0.parquet": table(), "train-1.parquet": table()},
    "webdataset": {"train-0.tar": tar(), "test-0.tar": tar()},
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_bucket_is_read_as_a_folder_is(s3: S3, tmp_path: Path, name: str) -> None:
    write(tmp_path, SOURCES[name])
    for key, content in SOURCES[name].items():
        s3.put(f"in/{key}", content if isinstance(content, bytes) else content.encode())
    root = f"{s3.uri}/in"
    assert format_of(root) == format_of(tmp_path) == name
    local = [
        {**row, "uri": row["uri"] and row["uri"].replace(str(tmp_path), root)}
        for row in read(tmp_path)
    ]
    assert read(root) == local
    assert any(row["caption"] for row in local)


def test_a_file_of_a_bucket_is_read_with_images_of_a_folder(s3: S3, tmp_path: Path) -> None:
    s3.put("list.jsonl", LINES.encode())
    assert {row["uri"] for row in read(f"{s3.uri}/list.jsonl", images=tmp_path)} == {
        f"{tmp_path}/{number}.jpg" for number in range(3)
    }


def test_what_a_bucket_does_not_hold_is_told(s3: S3) -> None:
    s3.put("cut/list.parquet", table()[:-9])
    with pytest.raises(ConfigError) as refused:
        read(f"{s3.uri}/in")
    assert refused.value.uri == f"{s3.uri}/in"
    with pytest.raises(DatasetError, match=r"row 1: .*parquet: ") as caught:
        read(f"{s3.uri}/cut/list.parquet")
    assert caught.value.uri == f"{s3.uri}/cut/list.parquet"


def test_a_name_longer_than_a_key_can_be_is_no_image(s3: S3) -> None:
    row = {"file_name": "x" * 2000 + ".jpg", "caption": "x"}
    s3.put("in/metadata.jsonl", json.dumps(row).encode())
    assert len(read(f"{s3.uri}/in")) == 1
