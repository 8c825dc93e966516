"""The README's commands do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import S3, MakeJpeg
from tests.support.commandline import CommandLine, rows_of
from tests.support.documents import (
    CONFIGS,
    IN_DOCS,
    README,
    is_run,
    readme_commands,
    run,
    undescribed_files,
    write_examples,
)


def example_output(folder: Path, env: dict[str, str]) -> str:
    """Run the README's Python example in a folder, and return what it prints."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(900)
def test_the_commands_on_a_folder_run_in_order(raycap: CommandLine) -> None:
    write_examples(raycap.folder)
    for command in readme_commands():
        if is_run(command) and not command.startswith(IN_DOCS) and "s3://" not in command:
            run(raycap, command)
    assert len((raycap.folder / "captions.jsonl").read_text().splitlines()) == 24
    assert "</html>" in (raycap.folder / "report.html").read_text()
    assert {row["model"] for row in rows_of(raycap.folder / "tuned")} == {"run/model"}
    # The same call as the first command: all images have their rows, and none is captioned again.
    assert example_output(raycap.folder, raycap.env) == "24 {}"
    for command, output in {
        "caption": "captions",
        "prepare": "dataset",
        "train": "run",
        "evaluate": "evaluation",
    }.items():
        found = undescribed_files(raycap.folder / output, f"## What `raycap {command}` writes")
        assert found == [], command


def test_the_commands_on_a_bucket_run_with_a_model_that_needs_no_download(
    raycap: CommandLine, s3: S3, make_jpeg: MakeJpeg
) -> None:
    s3.put("photos/a.jpg", make_jpeg())
    raycap.env |= s3.env
    (raycap.folder / "configs").symlink_to(CONFIGS)
    for command in readme_commands():
        if re.match(r"raycap .*s3:", command):
            run(raycap, command.replace("s3://my-bucket", s3.uri))
    assert s3.client.head_object(Bucket=s3.bucket, Key="captions/summary.json")
