"""Training holds neither the dataset nor its list: no process grows with the number of images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.commandline import CommandLine

pytestmark = pytest.mark.slow

ALLOWED_BYTES = 40 * 2**20
"""Less than half of what the larger set adds: 81 MB of files, 6.9 MB of pixels."""


def test_no_process_grows_with_the_number_of_images(raycap: CommandLine, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.training_memory", str(tmp_path)],
        cwd=ROOT,
        env=raycap.env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    few, many = map(json.loads, done.stdout.splitlines())
    assert any("LoneWorker" in name for name in many)
    assert any("load" in name or "Map" in name for name in many)
    for name in few.keys() & many.keys():
        assert many[name] - few[name] < ALLOWED_BYTES, f"{name}: {few[name]:,} to {many[name]:,}"
