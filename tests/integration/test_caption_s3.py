"""Bulk captioning from buckets and web addresses, on moto's S3 server as a process."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray._private import state  # no public name tells as much without a dashboard

import raycap
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig
from raycap.config.loading import validate_config
from raycap.errors import BucketNotFound
from tests.conftest import S3, MakeJpeg, RequestLog

pytestmark = pytest.mark.usefixtures("ray_session")


def config(**sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("storage", {"timeout_s": 5, "num_retries": 1})
    return validate_config(CaptionConfig, sections)


def rows_of(s3: S3, prefix: str) -> list[dict[str, Any]]:
    """All rows of an output in the bucket, in part order."""
    listed = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=f"{prefix}/captions/")
    rows: list[dict[str, Any]] = []
    for item in listed.get("Contents", []):
        body = s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
        rows += pq.read_table(BytesIO(body)).to_pylist()
    return rows


def put_images(s3: S3, make_jpeg: MakeJpeg, count: int) -> None:
    for number in range(count):
        s3.put(f"photos/{number % 3}/{number:04d}.jpg", make_jpeg(seed=number))


def test_a_bucket_is_captioned_into_a_bucket_reading_every_image_once(
    s3: S3, s3_log: RequestLog, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-value")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "planted-token-value")
    monkeypatch.setenv("HF_TOKEN", "planted-token-value")
    put_images(s3, make_jpeg, 40)
    s3.put("photos/empty.jpg", b"")
    s3.put("photos/readme.md", b"# not an image")
    settings = config(engine={"part_size": 16})
    summary = raycap.caption(f"{s3.uri}/photos", f"{s3.uri}/out", config=settings)
    rows = rows_of(s3, "out")
    assert [row["image_id"] for row in rows] == sorted(
        [f"{n % 3}/{n:04d}.jpg" for n in range(40)] + ["empty.jpg"]
    )
    assert (summary.num_ok, summary.failed, summary.skipped) == (40, {"empty": 1}, {".md": 1})
    assert rows[0]["uri"] == f"{s3.uri}/photos/0/0000.jpg"
    assert rows[0]["etag"]
    assert verify(f"{s3.uri}/out").is_complete
    reads = s3_log.image_reads(s3.bucket)
    assert len(reads) == 41
    assert set(reads.values()) == {1}
    assert_nothing_planted(s3)

    # A resumed run reads no image of a committed part again.
    for key in ("out/summary.json", "out/captions/part-000001.parquet"):
        s3.client.delete_object(Bucket=s3.bucket, Key=key)
    assert raycap.caption(f"{s3.uri}/photos", f"{s3.uri}/out", config=settings).num_captioned == 16
    assert rows_of(s3, "out") == rows
    reads = s3_log.image_reads(s3.bucket)
    again = {f"photos/{row['image_id']}" for row in rows[16:32]}
    assert {key for key, count in reads.items() if count == 2} == again
    assert reads.total() == 57


def assert_nothing_planted(s3: S3) -> None:
    """No credential is in anything that a run writes, or in what Ray knows of it."""
    for item in s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="out/")["Contents"]:
        body = s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
        assert b"planted" not in body, item["Key"]
        if item["Key"].endswith(".parquet"):
            assert "planted" not in str(pq.read_table(BytesIO(body)).to_pylist())
    # Of jobs: how they were started, metadata and runtime environments; of actors as well.
    ray_state: Any = state  # untyped there
    told = f"{ray_state.jobs()} {ray_state.actors()}"
    assert "Entrypoint" in told
    assert "CaptionActor" in told or "MapWorker" in told
    assert "planted" not in told


def test_a_missing_bucket_stops_at_once_with_one_line(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(BucketNotFound, match="nowhere-at-all"):
        raycap.caption("s3://nowhere-at-all/photos", tmp_path / "out", config=config())
    assert s3.bucket


def test_a_list_may_name_a_bucket_that_is_missing(
    s3: S3, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    s3.put("one.jpg", make_jpeg())
    listed = tmp_path / "images.txt"
    listed.write_text(f"s3://nowhere-at-all/photo.jpg\n{s3.uri}/other.jpg\n{s3.uri}/one.jpg\n")
    summary = raycap.caption(listed, tmp_path / "out", config=config())
    assert (summary.num_ok, summary.failed) == (1, {"not_found": 2})


class _Flaky(BaseHTTPRequestHandler):
    """Serves an image, but answers 503 to those named `flaky` until it is mended."""

    image = b""
    is_mended = False

    def do_GET(self) -> None:
        if "gone" in self.path:
            self._reply(404, b"")
        elif "flaky" in self.path and not type(self).is_mended:
            self._reply(503, b"")
        else:
            self._reply(200, type(self).image)

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture
def web_server(make_jpeg: MakeJpeg) -> Any:
    _Flaky.image = make_jpeg(seed=5)
    _Flaky.is_mended = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_list_may_mix_kinds_of_addresses_and_retry_failed_mends_what_was_passing(
    s3: S3, web_server: str, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    make_jpeg(tmp_path / "lists" / "near.jpg", seed=1)
    make_jpeg(tmp_path / "far.jpg", seed=2)
    s3.put("some/where.jpg", make_jpeg(seed=3))
    addresses = [
        "near.jpg",
        str(tmp_path / "far.jpg"),
        f"{s3.uri}/some/where.jpg",
        f"{web_server}/fine.jpg",
        f"{web_server}/flaky.jpg",
        f"{web_server}/gone.jpg",
        f"{web_server}/signed.jpg?X-Amz-Signature=planted",
    ]
    listed = tmp_path / "lists" / "images.jsonl"
    listed.write_text("".join(json.dumps({"uri": address}) + "\n" for address in addresses))
    output = tmp_path / "out"
    settings = config(engine={"max_failed_share": 1})
    summary = raycap.caption(listed, output, config=settings)
    assert summary.failed == {"not_found": 1, "throttled": 1}
    assert summary.num_ok == 5
    rows = {
        row["image_id"]: row
        for row in pq.read_table(output / "captions" / "part-000000.parquet").to_pylist()
    }
    assert rows.keys() == {*addresses[:6], f"{web_server}/signed.jpg"}
    assert "planted" not in str(rows)
    assert rows[f"{web_server}/flaky.jpg"]["attempts"] == 1

    assert raycap.caption(listed, output, config=settings).num_captioned == 0
    _Flaky.is_mended = True
    summary = raycap.caption(listed, output, config=settings, retry_failed=True)
    assert (summary.num_captioned, summary.failed) == (1, {"not_found": 1})
    after = {
        row["image_id"]: row
        for row in pq.read_table(output / "captions" / "part-000000.parquet").to_pylist()
    }
    mended = after.pop(f"{web_server}/flaky.jpg")
    assert (mended["status"], mended["attempts"]) == ("ok", 2)
    assert mended["error_code"] is None
    rows.pop(f"{web_server}/flaky.jpg")
    assert after == rows
    assert verify(output).is_complete


def test_other_rules_for_the_text_need_no_image_of_the_bucket(
    s3: S3, s3_log: RequestLog, make_jpeg: MakeJpeg
) -> None:
    put_images(s3, make_jpeg, 7)
    source, output = f"{s3.uri}/photos", f"{s3.uri}/out"
    kept = config(engine={"part_size": 3}, text={"keep_answer": True})
    raycap.caption(source, output, config=kept)
    before = s3_log.image_reads(s3.bucket)
    loud = config(text={"keep_answer": True, "case": "upper"})
    raycap.caption(source, output, config=loud, again="text")
    assert s3_log.image_reads(s3.bucket) == before
    assert all(row["caption"] == row["answer"].upper() for row in rows_of(s3, "out"))
    assert verify(output, storage=loud.storage).is_complete
