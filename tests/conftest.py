"""What several test modules share: a hermetic AWS set-up, moto's S3, photos, the command line."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from botocore.config import Config
from PIL import Image

from tests.support.cli import InProcess
from tests.support.commandline import CommandLine
from tests.support.faulty_http import FaultyServer, faulty_server, truthful

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ROOT = Path(__file__).parents[1]

MakeJpeg = Callable[..., bytes]

# As in `raycap.cluster.start`: torch threads that spin while they wait take cores from others.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# As in `raycap.cluster.local`: beside a busy program, Ray's workers would get almost no time.
os.environ.setdefault("RAY_worker_niceness", "0")
# Whatever starts the tests: `nohup` and `&` ignore signals that tests send, and pass that on to
# every process; a dumb terminal shows no table that grows.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
os.environ["TERM"] = "xterm"

S3_PAGE_KEYS = 100
"""Keys that moto's server lists at a time; AWS lists 1,000."""


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes by their number: compressed ones hold a time, and both processes must agree."""
    del config
    return f"{argname}-of-{len(val)}" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def hermetic_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the credentials, profiles and endpoints of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def free_port() -> int:
    """Find a port of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class RequestLog:
    """What moto's server was asked for."""

    file: Path

    def image_reads(self, bucket: str) -> Counter[str]:
        """Count the GETs of each image of a bucket."""
        pattern = re.compile(rf'"GET /{bucket}/([^ ?"]+\.jpg)[^"]*" 20')
        return Counter(pattern.findall(self.file.read_text(errors="replace")))


@pytest.fixture(scope="session")
def s3_log(tmp_path_factory: pytest.TempPathFactory) -> RequestLog:
    """Give the log of moto's server."""
    return RequestLog(tmp_path_factory.mktemp("moto") / "server.log")


@pytest.fixture(scope="session")
def s3_server(s3_log: RequestLog) -> Iterator[str]:
    """Run moto's S3 server as a process of its own; give its endpoint."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = s3_log.file
    # Short pages: the tests of listings of many pages need fewer objects.
    env = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(S3_PAGE_KEYS)}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_it_answers(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"moto's server did not start: {log.read_text()}")


@dataclass(frozen=True, kw_only=True)
class S3:
    """A fresh bucket on moto's server, and how to reach it."""

    endpoint: str
    env: dict[str, str]
    """What a process needs in its environment to reach it."""
    bucket: str
    client: "S3Client"

    @property
    def uri(self) -> str:
        """`s3://bucket`."""
        return f"s3://{self.bucket}"

    def put(self, key: str, data: bytes = b"x") -> None:
        """Write an object."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)


@pytest.fixture(scope="session")
def s3_client(s3_server: str) -> Iterator["S3Client"]:
    """Give a client of moto's server that is told all it needs to know."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=s3_server,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="us-east-1",
        config=Config(max_pool_connections=32),
    )
    yield client
    client.close()


@pytest.fixture
def s3(
    s3_server: str,
    s3_client: "S3Client",
    hermetic_aws: None,
    monkeypatch: pytest.MonkeyPatch,
) -> S3:
    """Give a fresh bucket on moto's server, and set this process's environment to reach it."""
    del hermetic_aws  # must come first: it clears the environment
    env = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=bucket)
    return S3(endpoint=s3_server, env=env, bucket=bucket, client=s3_client)


@pytest.fixture
def make_jpeg() -> MakeJpeg:
    """Give `make(path=None, size=(64, 48), seed=0)`: JPEG bytes, written where a path is given."""

    def make(path: Path | None = None, size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
        width, height = size
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        sink = BytesIO()
        Image.fromarray(coarse).resize((width, height)).save(sink, "JPEG", quality=90)
        data = sink.getvalue()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return data

    return make


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """Give a folder of real photographs; skips where RAYCAP_REAL_PHOTOS names none."""
    root = os.environ.get("RAYCAP_REAL_PHOTOS")
    if not root:
        pytest.skip("RAYCAP_REAL_PHOTOS is not set")
    folder = Path(root) / "images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not a folder")
    return folder


@pytest.fixture
def raycap(tmp_path: Path, hermetic_aws: None) -> Iterator[CommandLine]:
    """Give the command line, in a folder of the test's own."""
    del hermetic_aws  # its environment is what the command inherits
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)  # `cli` shares it
    env = {**os.environ, "HOME": str(home), "COLUMNS": "120", "RAY_USAGE_STATS_ENABLED": "0"}
    env["RAY_ADDRESS"] = "local"  # not a cluster that somebody else's `ray start` named
    env.pop("RAY_AUTH_MODE", None)  # `ray_session` runs without a token, and is up until the end
    command = CommandLine(folder=tmp_path, env=env)
    yield command
    for process in command.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def s3_gate(s3_server: str) -> Iterator[FaultyServer]:
    """Run a server in front of moto's, which Ray's workers use; `sick_s3` lets it fail."""
    with faulty_server(s3_server) as server:
        yield server


@pytest.fixture
def sick_s3(
    s3: S3, s3_gate: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyServer]:
    """Let this process read through the gate as well; its rule ends with the test."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_gate.url)
    assert s3.endpoint != s3_gate.url
    s3_gate.requests.clear()
    yield s3_gate
    s3_gate.rule = lambda _: truthful


@pytest.fixture(scope="session")
def ray_session(s3_gate: FaultyServer) -> Iterator[None]:
    """Start a local Ray whose workers find the S3 server in their environment."""
    env = {
        "AWS_ENDPOINT_URL": s3_gate.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RAY_AUTH_MODE": "disabled",  # on loopback; keeps a token out of the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "GOMP_SPINCOUNT": "1000",  # as of raycap.cluster.start
    }
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    ray: Any = import_module("ray")  # seconds, which only the tests with a Ray need
    try:
        _start_ray(ray)
        yield
    finally:
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start_ray(ray: Any) -> None:
    """Start it, again where a busy machine took longer than the 30 s that Ray waits."""
    for is_last in (False, False, True):
        try:
            ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        except Exception:
            ray.shutdown()
            if is_last:
                raise
        else:
            return


@pytest.fixture
def cli(tmp_path: Path, hermetic_aws: None, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Give the command line in this process, in a folder of the test's own."""
    del hermetic_aws  # must come first: it clears the environment
    (tmp_path / "home").mkdir(exist_ok=True)  # `raycap` shares it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return InProcess(tmp_path)
