"""Where Ray cannot start or be reached, every command ends with one line and a documented code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.broken_ray import COMMANDS
from tests.support.commandline import write_images
from tests.support.tiny_dataset import write_dataset


@pytest.mark.slow
def test_every_command_says_in_one_line_why_there_is_no_ray(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    for number in range(4):
        (tmp_path / "photos" / f"{number:06d}.txt").write_text("a picture of colours")
    write_dataset(str(tmp_path / "set"), "train:16", "validation:4", "test:4")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.broken_ray"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    conditions = {one["condition"] for one in told}
    assert len(conditions) >= 6, "a seventh where a small disk can be mounted"
    assert len(told) == len(conditions) * len(COMMANDS)
    for one in told:
        assert one["error"] is None, one
        assert one["code"] in (1, 2), one
        said = one["out"] if one["command"] == "doctor" else one["err"]
        mark = "failed  Ray" if one["command"] == "doctor" else "error:"
        assert sum(mark in line for line in said.splitlines()) == 1, one
        assert "Traceback" not in one["err"], one
    assert not (tmp_path / ".ray").exists()
