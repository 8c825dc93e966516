"""The installed command line as a fixture."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commandline import CommandLine


@pytest.fixture
def raycap(tmp_path: Path, hermetic_aws: None) -> Iterator[CommandLine]:
    """Give the command line, in a folder of the test's own."""
    del hermetic_aws  # its environment is what the command inherits
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home), "COLUMNS": "120", "RAY_USAGE_STATS_ENABLED": "0"}
    env["RAY_ADDRESS"] = "local"  # not a cluster that somebody else's `ray start` named
    command = CommandLine(folder=tmp_path, env=env)
    yield command
    for process in command.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
