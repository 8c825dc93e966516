"""The README's examples do what it says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import CommandLine, rows_of, write_images
from tests.conftest import S3, MakeJpeg

README = (Path(__file__).parents[2] / "README.md").read_text()

NOT_RUN = {
    "make demo": "runs `raycap demo`, which test_cli runs",
    "make test": "runs these tests",
    "pip install .": "takes minutes, and a network",
    "raycap caption photos/ blip/": "downloads a model",
    "ray job submit": "needs a cluster; test_cli runs the job script",
}
"""Commands of the README that no test runs, and why."""


def commands() -> list[str]:
    """Every command of a shell block, without its comment."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def run(raycap: CommandLine, line: str) -> None:
    code, _, err = raycap(*shlex.split(line)[1:])
    assert code == 0, f"{line}\n{err}"


def test_every_command_is_run_here_or_says_why_not() -> None:
    for line in commands():
        reasons = [why for start, why in NOT_RUN.items() if line.startswith(start)]
        assert reasons or line.startswith("raycap "), line


def test_the_commands_on_a_folder_run_in_their_order(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", 5)
    for line in commands():
        if line.startswith("raycap ") and "s3://" not in line and line not in NOT_RUN:
            run(raycap, line)
    assert len((raycap.folder / "captions.jsonl").read_text().splitlines()) == 5


def test_the_command_on_a_bucket_runs_with_a_model_that_needs_no_download(
    raycap: CommandLine, s3: S3, make_jpeg: MakeJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raycap.folder)
    s3.put("photos/a.jpg", make_jpeg())
    raycap.env |= s3.env
    config = Path(__file__).parents[2] / "configs"
    (raycap.folder / "configs").symlink_to(config)
    (line,) = [line for line in commands() if line.startswith("raycap caption s3://")]
    run(raycap, line.replace("my-bucket", s3.bucket) + " --model stub")
    assert s3.client.head_object(Bucket=s3.bucket, Key="captions/summary.json")


def test_the_python_example_runs(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", 3)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=raycap.folder,
        env={**os.environ, **raycap.env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "3 {}", done.stderr
    assert len(rows_of(raycap.folder / "captions")) == 3
