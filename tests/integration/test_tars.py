"""Captions of images in tars, on moto's S3 server, on the web and on this machine."""

import json
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest

import raycap
from raycap.captioning.verify import verify
from raycap.config import CaptionConfig, StorageConfig
from raycap.config.loading import validate_config
from raycap.errors import ConfigError
from raycap.storage.members import member_of
from raycap.storage.stores import ImageReader
from tests.conftest import S3
from tests.faults.drills import caption_of
from tests.support.cli import InProcess
from tests.support.faulty_http import FaultyServer, Handler, TrueReply, truthful
from tests.support.tars import jpeg, samples_of, write_shard

pytestmark = pytest.mark.usefixtures("ray_session")


def config(**sections: Any) -> CaptionConfig:
    sections.setdefault("model", {"name": "stub"})
    sections.setdefault("storage", {"timeout_s": 5, "num_retries": 1})
    return validate_config(CaptionConfig, sections)


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    parts = sorted((output / "captions").iterdir())
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    names = [row["image_id"] for row in rows]
    assert len(names) == len(set(names))
    return {row["image_id"]: row for row in rows}


def captions(output: Path) -> dict[str, str | None]:
    return {name: row["caption"] for name, row in rows_of(output).items()}


def expected(shards: dict[str, range]) -> dict[str, str | None]:
    return {
        f"{key}/{seed:06d}.jpg": caption_of(jpeg(seed)) for key, of in shards.items() for seed in of
    }


def reads(server: FaultyServer) -> list[tuple[str, str, str]]:
    """Give the requests for tars: method, path and range."""
    found = ((how, path, said.get("Range", "")) for how, path, said in server.requests)
    # That there is no tar with braces in its name is asked, too.
    return [one for one in found if one[1].endswith(".tar") and "%7B" not in one[1]]


def num_bytes(span: str) -> int:
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
    assert match is not None
    return int(match[2]) - int(match[1]) + 1


def test_a_bucket_of_tars_is_captioned_by_few_requests_and_again_where_a_tar_changed(
    s3: S3, sick_s3: FaultyServer, tmp_path: Path
) -> None:
    shards = {f"{n:05d}.tar": range(40 * n, 40 * n + 40) for n in range(3)}

    def put(key: str) -> None:
        s3.put(f"shards/{key}", write_shard(tmp_path / key, shards[key]).read_bytes())

    for key in shards:
        put(key)
    source, output = f"{s3.uri}/shards/{{00000..00002}}.tar", tmp_path / "out"
    settings = config(engine={"part_size": 50})
    summary = raycap.caption(source, output, config=settings)
    assert (summary.num_ok, summary.num_failed, summary.skipped) == (120, 0, {})
    assert captions(output) == expected(shards)
    assert verify(output).is_complete
    found = reads(sick_s3)
    row = rows_of(output)["00001.tar/000050.jpg"]
    member = member_of(row["uri"])
    assert member is not None
    assert member.tar == f"{s3.uri}/shards/00001.tar"
    assert ImageReader(StorageConfig()).read(row["uri"], 100_000) == jpeg(50)

    # One request reads the headers of each tar, and one what a part has of it; after each, one asks
    # for the version that was read.
    spans = [span for how, _, span in found if how == "GET"]
    assert len(found) == 2 * 3 + 2 * 5
    listing, images = sorted(map(num_bytes, spans))[-3:], sorted(map(num_bytes, spans))[:-3]
    assert sum(listing) <= sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert sum(images) <= sum(listing)

    # The second time, no tar is read: the output has an index of each.
    sick_s3.requests.clear()
    assert raycap.caption(source, output, config=settings).num_captioned == 0
    assert reads(sick_s3) == []

    # A tar that has changed is listed and captioned again, and no other.
    shards["00001.tar"] = range(41, 83)
    put("00001.tar")
    again = raycap.caption(source, output, config=settings)
    assert (again.num_captioned, again.num_gone, again.num_failed) == (42, 1, 0)
    assert {path for _, path, _ in reads(sick_s3)} == {f"/{s3.bucket}/shards/00001.tar"}
    gone = {"00001.tar/000040.jpg": caption_of(jpeg(40))}
    assert captions(output) == expected(shards) | gone


def test_the_tar_that_is_replaced_during_a_run_gives_no_captions_of_other_images(
    s3: S3, sick_s3: FaultyServer, tmp_path: Path
) -> None:
    key = "0.tar"
    s3.put(key, write_shard(tmp_path / key, range(20)).read_bytes())
    other = write_shard(tmp_path / "other.tar", range(100, 120)).read_bytes()
    seen: list[str] = []

    def swapped(handler: Handler, reply: TrueReply) -> None:
        seen.append(handler.headers.get("Range", ""))
        if len(seen) == 3:  # after it was found and listed, before its images are read
            s3.put(key, other)
        handler.send(reply())

    def rule(handler: Handler) -> Any:
        is_read = handler.command == "GET" and handler.path.endswith(key)
        return swapped if is_read else truthful

    sick_s3.rule = rule
    summary = raycap.caption(f"{s3.uri}/{key}", tmp_path / "out", config=config())
    assert (summary.num_ok, summary.failed) == (0, {"not_found": 20})
    again = raycap.caption(f"{s3.uri}/{key}", tmp_path / "out", config=config())
    assert (again.num_captioned, again.num_gone) == (20, 20)


def test_a_damaged_tar_is_a_failed_row_beside_its_images(tmp_path: Path) -> None:
    write_shard(tmp_path / "s/0.tar", range(5))
    path = write_shard(tmp_path / "s/1.tar", range(10, 20))
    path.write_bytes(path.read_bytes()[:15_000])
    summary = raycap.caption(tmp_path / "s", tmp_path / "out", config=config())
    rows = rows_of(tmp_path / "out")
    damaged = rows.pop("1.tar/(damaged)")
    assert (damaged["error_code"], damaged["uri"]) == ("not_found", str(path))
    assert 5 < len(rows) < 15
    assert summary.failed == {"not_found": 1}
    write_shard(path, range(10, 20))
    again = raycap.caption(tmp_path / "s", tmp_path / "out", config=config())
    assert (again.num_ok, again.num_gone) == (15, 1)


def test_texts_of_a_sample_are_fields_of_prompts(
    s3: S3, sick_s3: FaultyServer, tmp_path: Path
) -> None:
    s3.put("0.tar", write_shard(tmp_path / "0.tar", range(30)).read_bytes())
    settings = config(
        generation={"prompt": "Describe it, {tag}: {text}"},
        source={"keep_columns": ["tag", "text", "folder"]},
    )
    raycap.caption(f"{s3.uri}/*.tar", tmp_path / "out", config=settings)
    row = rows_of(tmp_path / "out")["0.tar/000007.jpg"]
    kept = {name: row[name] for name in ("tag", "text", "folder")}
    assert kept == {"tag": "tag 7", "text": "alt text 7", "folder": "0.tar"}
    # Two for the first sample, in which the fields are looked for; the others with the images.
    assert len(reads(sick_s3)) < 10
    unknown = config(generation={"prompt": "{other}"})
    with pytest.raises(ConfigError) as caught:
        raycap.caption(f"{s3.uri}/*.tar", tmp_path / "x", config=unknown)
    assert caught.value.setting == "generation.prompt"


class _Ranged(SimpleHTTPRequestHandler):
    """Serves a folder, with ranges, to those who have the signature."""

    has_ranges = True
    asked: list[str] = []  # noqa: RUF012  of the test

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if "X-Amz-Signature=planted" not in self.path:
            self.send_error(403)
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        body = data[first : last + 1] if self.has_ranges else data
        self.send_response(206 if self.has_ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve the folder `web`; give its address."""
    (tmp_path / "web").mkdir()
    handler = partial(_Ranged, directory=str(tmp_path / "web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_signed_web_addresses_of_tars_leave_no_signature(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {f"{n}.tar": range(10 * n, 10 * n + 10) for n in range(2)}
    for key, of in shards.items():
        write_shard(tmp_path / "web/a b" / key, of)
    signed = "?X-Amz-Signature=planted&X-Amz-Date=20260101T000000Z"
    source, output = f"{web}/a%20b/{{0..1}}.tar{signed}", tmp_path / "out"
    raycap.caption(source, output, config=config())
    assert captions(output) == expected(shards)
    row = rows_of(output)["1.tar/000012.jpg"]
    member = member_of(row["uri"])
    assert member is not None
    assert member.tar == f"{web}/a%20b/1.tar"
    for file in output.rglob("*"):
        assert not file.is_file() or b"planted" not in file.read_bytes()
    # Signed again, it is the same source.
    assert raycap.caption(f"{source}&X-Amz-Expires=9", output, config=config()).num_captioned == 0

    monkeypatch.setattr(_Ranged, "has_ranges", False)
    with pytest.raises(ConfigError) as caught:
        raycap.caption(source, tmp_path / "x", config=config())
    assert "planted" not in str(caught.value)


def test_the_commands_about_an_output_work_with_tars(cli: InProcess) -> None:
    for number in range(2):
        write_shard(cli.folder / f"s/{number}.tar", range(10 * number, 10 * number + 10))
    source = "s/{0..1}.tar"
    code, out, err = cli("doctor", "--source", "s/0.tar")
    assert code == 0, out + err
    code, out, err = cli("caption", source, "out", "--model", "stub", "--dry-run")
    assert code == 0, err
    assert not (cli.folder / "out").exists()
    code, out, err = cli("caption", source, "out", "--model", "stub", "--preflight", "5")
    assert code == 0, err
    for command in (
        ("caption", source, "out", "--model", "stub"),
        ("verify", "out"),
        ("status", "out"),
        ("report", "out", "--output", "report.html"),
        ("export", "out", "new", "--to", "webdataset"),
        ("export", "out", "texts", "--to", "sidecar"),
        ("prepare", "out", "dataset"),
    ):
        code, out, err = cli(*command)
        assert code == 0, f"{command}\n{out}\n{err}"
    assert "data:image/" in (cli.folder / "report.html").read_text()
    rows = rows_of(cli.folder / "out")
    (sample, *_) = samples_of(cli.folder / "new/1.tar")
    assert sample["__key__"] == "000010"
    assert sample["txt"].decode() == rows["1.tar/000010.jpg"]["caption"]
    assert json.loads(sample["json"])["image_id"] == "1.tar/000010.jpg"
