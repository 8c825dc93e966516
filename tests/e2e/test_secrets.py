"""Secrets are planted in environment, addresses and lists: no output, log or message shows them."""

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from ray._private import state as ray_state
from ray._private import worker

from raycap.cluster import local
from tests.conftest import S3, MakeJpeg
from tests.support.cli import InProcess
from tests.support.commandline import (
    CommandLine,
    ray_processes_of,
    rows_of,
    wait_until,
    write_images,
)
from tests.support.endpoint_server import endpoint_server
from tests.support.faulty_http import FaultyServer, Reply, faulty_server

pytestmark = pytest.mark.slow

PLANTED = "planted"
"""Part of every secret."""
SECRETS = {
    "HF_TOKEN": f"hf_{PLANTED}",
    "HF_HUB_OFFLINE": "1",
    "AWS_ACCESS_KEY_ID": f"AKIA{PLANTED}",
    "AWS_SECRET_ACCESS_KEY": f"{PLANTED}/secret",
    "AWS_SESSION_TOKEN": f"{PLANTED}/token",
}
QUICK = ("--set", "storage.num_retries=0", "--set", "storage.timeout_s=5")


@dataclass
class Watched:
    """The command line in this process; all its output and files are searched for secrets."""

    cli: InProcess
    began_at: float
    logs: list[Path]
    """Folders where Ray writes."""
    told: list[str] = field(default_factory=list)

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Run to the end; return what it told."""
        got, out, err = self.cli(*arguments)
        assert got == code, err
        self.told.append(out + err)
        return out + err

    @property
    def ray_logs(self) -> list[Path]:
        """Files that Ray has written since the test began."""
        files = [path for folder in self.logs for path in folder.rglob("*") if path.is_file()]
        return [path for path in files if path.stat().st_mtime >= self.began_at]


@pytest.fixture
def watched(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> Watched:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    node: Any = worker._global_node  # no public name tells where a session is
    logs = [Path(node.get_session_dir_path())] if node is not None else []
    return Watched(cli=cli, began_at=time.time() - 1, logs=logs)


@pytest.fixture
def web() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


def shown(path: Path) -> Iterator[str]:
    """What a file shows to whoever opens it, or takes it apart."""
    yield path.read_bytes().decode(errors="replace")
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        yield f"{table.to_pylist()} {table.schema.metadata} {pq.read_metadata(path).metadata}"


def assert_nothing_shows(watched: Watched, *places: Path, secret: str = PLANTED) -> None:
    for text in watched.told:
        assert secret not in text
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert files
    assert watched.ray_logs
    for file in [*files, *watched.ray_logs]:
        assert not any(secret in text for text in shown(file)), file


def fetched(s3: S3, prefix: str, folder: Path) -> Path:
    """Bring a prefix of a bucket into a folder."""
    for item in s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=prefix)["Contents"]:
        path = folder / item["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read())
    return folder / prefix


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Give a folder for Ray's sessions, of a short name: paths of sockets may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="rc-"))
    yield folder
    shutil.rmtree(folder)


def test_credentials_stay_in_the_environment_and_rays_token_is_this_users_alone(
    s3: S3, watched: Watched, raycap: CommandLine, ray_folder: Path, make_jpeg: MakeJpeg
) -> None:
    """A run with a Ray of its own, whose workers inherit the credentials."""
    os.umask(before := os.umask(0o022))
    assert before & 0o077 != 0o077, "this test shows nothing where new files are private anyway"
    raycap.env |= s3.env | SECRETS | {"RAY_TMPDIR": str(ray_folder)}
    for number in range(8):
        s3.put(f"photos/{number}.jpg", make_jpeg(seed=number))
    s3.put("photos/broken.jpg", b"\xff\xd8\xff no")
    slow = ("--set", "model.stub_latency_s=1", "--set", "engine.batch_size=1")
    settings = ("--model", "stub", *slow, "--set", "engine.max_failed_share=1", *QUICK, "--debug")
    process = raycap.start("caption", f"{s3.uri}/photos", f"{s3.uri}/out", *settings)
    home = raycap.folder / "home"
    wait_until(lambda: len(ray_processes_of(home)) > 6, process)
    environments = [_environment_of(number) for number in ray_processes_of(home)]
    (token,) = {found["RAY_AUTH_TOKEN"] for found in environments if "RAY_AUTH_TOKEN" in found}
    assert len(token) >= 32
    for number in ray_processes_of(home):
        told = _told_of(number)
        assert told.get("RAY_AUTH_MODE", "token") == "token"
        assert PLANTED not in told["command"]
        assert token not in told["command"]
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not (home / ".ray").exists()

    watched.told.append(out + err)
    watched.logs = [ray_folder]
    page = raycap.folder / "pages" / "page.html"
    watched("report", f"{s3.uri}/out", "--output", page)
    watched("caption", "s3://no-such-bucket-at-all/x", "out", "--model", "stub", *QUICK, code=1)
    output = fetched(s3, "out", raycap.folder / "fetched")
    assert {row["status"] for row in rows_of(output)} == {"ok", "failed"}
    for secret in (PLANTED, token):
        assert_nothing_shows(watched, output, page.parent, secret=secret)


def test_a_token_that_others_can_read_is_closed_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o644)
    local._close_to_others(token)
    assert mode_of(token) == 0o600
    assert token.read_text() == "0123456789abcdef" * 4


@pytest.mark.usefixtures("ray_session")
def test_the_key_of_an_endpoint_is_told_to_nobody_else(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = watched.cli.folder
    write_images(folder / "photos", 6)
    key = f"sk-{PLANTED}"
    monkeypatch.setenv("ENDPOINT_KEY", key)
    monkeypatch.setenv("ENDPOINT_TEAM", f"team-{PLANTED}")
    told = (
        *("--set", "endpoint.api_key_env=ENDPOINT_KEY"),
        *("--set", "endpoint.headers={X-Team: '${ENDPOINT_TEAM}'}"),
    )
    asked = ("caption", "photos", "out", "--model", "tiny", "--set", "model.backend=endpoint")
    with endpoint_server(key=key, latency_s=0.2) as (server, url):
        watched(*asked, *told, "--set", f"endpoint.urls={url}", "--debug")
        commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert key not in str(commands)
        assert f"team-{PLANTED}" not in str(commands)
    assert {headers["X-Team"] for headers in server.headers} == {f"team-{PLANTED}"}
    with endpoint_server(key="another") as (_, url):  # it quotes the key that it refuses
        other = ("--set", f"endpoint.urls={url}", "--set", "generation.prompt=Why?")
        watched(*asked[:2], "other", *asked[3:], *told, *other, code=1)
    assert PLANTED not in str(ray_state.actors())
    assert_nothing_shows(watched, folder / "out", folder / "other")


def write_list(web: FaultyServer, s3: S3, folder: Path, make_jpeg: MakeJpeg) -> Path:
    """List images by addresses that hold secrets: good ones, and failing ones of every kind."""
    s3.put("signed.jpg", make_jpeg(seed=1))
    web.pages["/mine.jpg"] = Reply(body=make_jpeg(seed=2))
    web.pages[f"/broken.jpg?token={PLANTED}"] = Reply(body=b"\xff\xd8\xff no")
    host = web.url.removeprefix("http://")
    signed = s3.client.generate_presigned_url(
        "get_object", Params={"Bucket": s3.bucket, "Key": "signed.jpg"}
    )
    addresses = [
        f"{signed}&X-Amz-Security-Token={PLANTED}",
        f"http://me:{PLANTED}@{host}/mine.jpg",
        f"http://me:{PLANTED}@{host}/gone.jpg",
        f"{web.url}/broken.jpg?token={PLANTED}",
        f"{web.url}/gone.jpg?X-Amz-Signature={PLANTED}&x=1",
        f"https://{host}/no-tls.jpg?sig={PLANTED}",
        f"http://127.0.0.1:1/refused.jpg?Signature={PLANTED}&Expires=1&AWSAccessKeyId={PLANTED}",
        f"http://[::1/unreadable.jpg?token={PLANTED}",
        f"s3://AKIA:{PLANTED}@{s3.bucket}/signed.jpg",
        f"ftp://me:{PLANTED}@{host}/mine.jpg",
        f"{web.url}/gone.jpg?author={PLANTED}&session={PLANTED}#token={PLANTED}",
    ]
    listed = folder / "lists" / "images.txt"
    listed.parent.mkdir()
    listed.write_text("\n".join(addresses) + "\n")
    return listed


@pytest.mark.usefixtures("ray_session")
def test_signed_addresses_and_passwords_of_a_list_are_in_no_row_message_or_log(
    watched: Watched, web: FaultyServer, s3: S3, make_jpeg: MakeJpeg
) -> None:
    folder = watched.cli.folder
    listed = write_list(web, s3, folder, make_jpeg)
    settings = ("--model", "stub", "--set", "engine.max_failed_share=1", *QUICK)
    watched("caption", listed, "out", *settings, "--dry-run")
    watched("caption", listed, "out", *settings, "--preflight", "5")
    watched("caption", listed, "out", *settings)
    watched("caption", listed, "out", *settings, "--retry-failed", "--debug")
    watched("verify", "out")
    watched("export", "out", "exported/captions.jsonl", "--to", "jsonl")
    watched("report", "out", "--output", "exported/page.html")
    codes = [row["error_code"] for row in rows_of(folder / "out")]
    assert codes.count(None) == 2
    assert {"decode_failed", "not_found", "network"} <= set(codes)
    assert_nothing_shows(watched, folder / "out", folder / "exported")


@pytest.mark.usefixtures("ray_session")
def test_a_list_may_be_signed_anew_while_its_run_goes_on(
    watched: Watched, web: FaultyServer, make_jpeg: MakeJpeg
) -> None:
    folder = watched.cli.folder
    listed = folder / "list.txt"
    settings = ("--model", "stub", "--set", "engine.max_failed_share=1", *QUICK)
    web.pages[f"/1.jpg?sig={PLANTED}2&se=2"] = Reply(body=make_jpeg(seed=1))
    web.pages[f"/1.jpg?sig={PLANTED}1&se=1"] = Reply(status=503)
    listed.write_text(f"{web.url}/1.jpg?sig={PLANTED}1&se=1\n")
    watched("caption", listed, "out", *settings)
    assert [row["error_code"] for row in rows_of(folder / "out")] == ["throttled"]
    listed.write_text(f"{web.url}/1.jpg?sig={PLANTED}2&se=2\n")
    watched("caption", listed, "out", *settings, "--retry-failed")
    (row,) = rows_of(folder / "out")
    assert (row["status"], row["image_id"]) == ("ok", f"{web.url}/1.jpg")
    assert_nothing_shows(watched, folder / "out")


@pytest.mark.usefixtures("ray_session")
def test_signed_addresses_of_annotations_are_not_in_a_dataset_or_what_comes_of_it(
    watched: Watched, web: FaultyServer, make_jpeg: MakeJpeg
) -> None:
    folder = watched.cli.folder
    rows = []
    for number in range(12):
        query = f"{number}.jpg?X-Amz-Signature={PLANTED}"
        if number:
            web.pages[f"/{query}"] = Reply(body=make_jpeg(seed=number))
        said = ["a picture of noise", "colours beside each other"]
        signed = f"{web.url}/{query}"
        rows.append({"file_name": signed, "captions": said, "split": "train"})
        rows[-1]["split"] = ("train", "train", "val", "test")[number % 4]
        again = {"file_name": f"{signed}2", "captions": ["signed again"]}
        rows.append(rows[-1] | again | {"image_id": f"{web.url}/{number}.jpg"})
    (folder / "lists").mkdir()
    (folder / "lists" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    watched("prepare", "lists/rows.jsonl", "set", *QUICK)
    watched("caption", "set", "captions", "--model", "stub", "--split", "test")
    quick = ("--set", "external.meteor=false", "--set", "bootstrap.num_resamples=10")
    watched("evaluate", "captions", "set", "--split", "test", "--output", "evaluation", *quick)
    small = ("encoder=small-cnn", "pretrained=false", "image_px=32", "width=8", "num_layers=1")
    shape = [part for value in small for part in ("--set", f"architecture.{value}")]
    epochs = ("--set", "train.num_epochs=1", "--set", "train.batch_size=4")
    watched("train", "set", "run", "--kind", "cnn-lstm", *shape, *epochs)
    watched("report", "set", "captions", "evaluation", "run", "--output", "pages/page.html")
    places = ("set", "captions", "evaluation", "run", "pages")
    assert_nothing_shows(watched, *(folder / name for name in places))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "arguments",
    [
        ("caption", f"https://me:{PLANTED}@host/list.txt", "out", "--model", "stub"),
        ("caption", f"https://host/list.txt?sig={PLANTED}", "out", "--model", "stub"),
        ("caption", "photos", f"https://me:{PLANTED}@host/out", "--model", "stub"),
        ("caption", f"s3://AKIA:{PLANTED}@bucket/list.txt", "out", "--model", "stub"),
        ("caption", f"s3://AKIA:{PLANTED}@bucket/photos", "out", "--model", "stub"),
        ("caption", f"sftp://me:{PLANTED}@host/photos", "out", "--model", "stub"),
        ("caption", "photos", "out", "--model", f"https://me:{PLANTED}@host/model"),
        ("prepare", f"https://me:{PLANTED}@host/rows.jsonl", "out"),
        ("prepare", "headless.csv", "out"),
        ("prepare", "photos", "out", "--images", f"https://me:{PLANTED}@host/photos"),
        ("evaluate", f"https://me:{PLANTED}@host/a.json", "photos"),
        ("report", f"https://me:{PLANTED}@host/out", "--output", "page.html"),
        ("report", "photos", "--output", f"https://me:{PLANTED}@host/page.html"),
        ("export", f"s3://AKIA:{PLANTED}@bucket/out", "captions.csv", "--to", "csv"),
        ("train", f"https://me:{PLANTED}@host/set", "out", "--kind", "blip", "--init", "demo"),
        ("caption", "ragged.csv", "out", "--model", "stub"),
    ],
)
def test_an_address_with_a_secret_that_cannot_be_used_is_refused_without_showing_it(
    watched: Watched, arguments: tuple[str, ...]
) -> None:
    folder = watched.cli.folder
    write_images(folder / "photos", 1)
    signed = f"https://host/a.jpg?X-Amz-Signature={PLANTED}"
    (folder / "headless.csv").write_text(f"{signed},a cat\n{signed},a dog\n")
    (folder / "ragged.csv").write_text(f"uri,image_id\n{signed},{PLANTED},2\n")
    code, out, err = watched.cli(*arguments)
    assert code in (1, 2)
    assert PLANTED not in out + err
    for file in (folder / "out").rglob("*"):
        assert file.is_dir() or not any(PLANTED in text for text in shown(file)), file


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _environment_of(number: int) -> dict[str, str]:
    try:
        return psutil.Process(number).environ()
    except psutil.Error:
        return {}


def _told_of(number: int) -> dict[str, Any]:
    """What everybody on the machine sees of a process, and how it was told to authenticate."""
    try:
        process = psutil.Process(number)
        mode = process.environ().get("RAY_AUTH_MODE")
        return {"command": " ".join(process.cmdline()), **({"RAY_AUTH_MODE": mode} if mode else {})}
    except psutil.Error:
        return {"command": ""}
