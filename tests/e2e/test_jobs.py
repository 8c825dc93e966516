"""Submitted jobs: on two nodes behind a token, started by `ray start`, told by `ray job`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobSubmissionClient

from tests.conftest import S3, MakeJpeg, free_port
from tests.faults.drills import captions_of
from tests.faults.drills import told as told_of
from tests.support.commandline import committed_parts, rows_of, wait_until, write_images
from tests.support.evaluation_samples import write_corpus
from tests.support.tiny_dataset import write_dataset

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
STUB = ("--model", "stub", "--set", "engine.batch_size=10", "--set", "engine.part_size=10")
SLOW = ("--set", "model.stub_latency_s=2")


@dataclass
class TwoNodes:
    """A cluster on this machine, and the commands that talk to it."""

    env: dict[str, str]

    def __call__(self, *command: str, code: int = 0) -> str:
        """Run an installed command to its end; return all that it told."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=PROJECT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, script: str, *arguments: object, code: int = 0) -> str:
        """Submit a job as the README says, and follow it to its end."""
        command = ("job", "submit", "--working-dir", ".", "--", "python", f"jobs/{script}")
        return self("ray", *command, *map(str, arguments), code=code)

    def start(self, name: str, script: str, *arguments: object) -> None:
        """Submit a job under a name, and leave it."""
        options = ("--working-dir", ".", "--no-wait", "--submission-id", name)
        self(
            "ray", "job", "submit", *options, "--", "python", f"jobs/{script}", *map(str, arguments)
        )


def started(arguments: tuple[str, ...], env: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a node of two CPUs, which runs until its process is ended."""
    command = [str(BIN / "ray"), "start", *arguments, "--num-cpus=2", "--block"]
    command += ["--object-store-memory=200000000", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    with Path(env["HOME"], "ray-start.txt").open("ab") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)


def end(home: str) -> None:
    """End the nodes and whatever they started; told to end themselves, they take half a minute."""
    deadline = time.monotonic() + 60
    while left := _processes_of(home):  # those that are ending may have started others
        assert time.monotonic() < deadline, left
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)


def _processes_of(home: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["environ", "status"])
        if (process.info["environ"] or {}).get("HOME") == home
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture(scope="module")
def cluster(s3_server: str) -> Iterator[TwoNodes]:
    # A short name: Ray's sockets are in it, whose paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="rc-"))
    (folder / "home").mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY", "AWS"))
    }
    env = kept | {
        "RAY_worker_niceness": "0",
        "HOME": str(folder / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",  # where the cluster finds the `python` of jobs
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    port, dashboard = free_port(), free_port()
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"  # for `ray job`
    two_nodes = TwoNodes(env)
    two_nodes("ray", "get-auth-token", "--generate")
    head = ("--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray")
    nodes = [started(head, env)]
    try:
        wait_until(lambda: _answers(two_nodes), nodes[0])
        status = ("status", f"--address=127.0.0.1:{port}")
        nodes.append(started((f"--address=127.0.0.1:{port}",), env))
        wait_until(lambda: two_nodes("ray", *status).count("node_") == 2, nodes[1])
        yield two_nodes
    finally:
        end(env["HOME"])
        for node in nodes:
            node.wait()
        shutil.rmtree(folder)


def _answers(cluster: TwoNodes) -> bool:
    command = [str(BIN / "ray"), "job", "list"]
    done = subprocess.run(command, env=cluster.env, capture_output=True, check=False)
    return done.returncode == 0


def exit_code(cluster: TwoNodes, told: str) -> int | None:
    """Look up the exit code of the job that was submitted; `ray job submit` itself gives 1."""
    name = re.search(r"raysubmit_\w+", told)
    assert name, told
    token = Path(cluster.env["HOME"], ".ray", "auth_token").read_text().strip()
    address = cluster.env["RAY_API_SERVER_ADDRESS"]
    client = JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"})
    return client.get_job_info(name.group()).driver_exit_code


def test_a_bucket_is_captioned_into_a_bucket(
    cluster: TwoNodes, s3: S3, make_jpeg: MakeJpeg
) -> None:
    for number in range(40):
        s3.put(f"photos/{number:02d}.jpg", make_jpeg(seed=number))
    s3.put("photos/broken.jpg", b"\xff\xd8\xff no")
    settings = ("--set", "engine.num_actors=2", "--set", "engine.max_failed_share=1")
    told = cluster.submit("caption.py", f"{s3.uri}/photos", f"{s3.uri}/out", *STUB, *settings)
    assert "41 images" in told
    assert "succeeded" in told
    assert "complete: every image has exactly one row" in cluster(
        "raycap", "verify", f"{s3.uri}/out"
    )


def test_jobs_share_the_cluster_an_output_has_one_writer_and_a_stopped_job_goes_on(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    write_images(tmp_path / "photos", 400)
    write_images(tmp_path / "few", 20)
    output = tmp_path / "out"
    arguments = (tmp_path / "photos", output, *STUB)
    cluster.start("to-be-stopped", "caption.py", *arguments, *SLOW)
    wait_until(lambda: committed_parts(output) >= 2)
    told = cluster.submit("caption.py", *arguments, *SLOW, code=1)
    assert "another run is writing here" in told
    assert exit_code(cluster, told) == 1
    cluster.submit("caption.py", tmp_path / "few", tmp_path / "other", *STUB)
    assert "400" in cluster("raycap", "status", str(output))
    cluster("ray", "job", "stop", "to-be-stopped")
    told = " ".join(cluster("ray", "job", "logs", "to-be-stopped").split())
    assert "of 400 images" in told
    assert "Traceback" not in told
    before = {part: part.stat().st_mtime_ns for part in (output / "captions").glob("*.parquet")}
    assert 2 <= len(before) < 40
    assert "succeeded" in cluster.submit("caption.py", *arguments)
    assert {part: part.stat().st_mtime_ns for part in before} == before
    assert told_of(rows_of(output)) == captions_of(tmp_path / "photos")
    assert told_of(rows_of(tmp_path / "other")) == captions_of(tmp_path / "few")


def test_a_mistake_fails_the_job_with_one_line_and_the_documented_code(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    told = cluster.submit("caption.py", tmp_path / "nowhere", tmp_path / "out", *STUB, code=1)
    assert f"{tmp_path / 'nowhere'}: " in told
    assert "Traceback" not in told
    assert exit_code(cluster, told) == 2


def test_a_model_is_trained_and_captions_are_compared_in_jobs(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    write_dataset(str(tmp_path / "set"), "train:16", "validation:4")
    shape = ("--set", "architecture.encoder=small-cnn", "--set", "train.num_epochs=1")
    arguments = (tmp_path / "set", tmp_path / "run", "--kind", "cnn-lstm", *shape)
    assert "best epoch" in cluster.submit("finetune.py", *arguments)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    systems, references = write_corpus(tmp_path, 10)
    quick = ("--set", "external.meteor=false", "--set", "bootstrap.num_resamples=20")
    told = cluster.submit("evaluate.py", *systems, references, *quick)
    assert "CIDEr-D" in told
