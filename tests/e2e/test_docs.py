"""The examples of the documentation do what it says."""

import subprocess
import sys

import pytest

from tests.e2e.test_readme import run, write_annotated_scenes
from tests.support.commandline import CommandLine
from tests.support.documents import docs_blocks, docs_commands


@pytest.mark.timeout(300)
def test_the_commands_that_only_the_docs_have_run_on_captions(raycap: CommandLine) -> None:
    write_annotated_scenes(raycap.folder)
    run(raycap, "raycap caption photos/ captions/ --model demo")
    for line in docs_commands():
        run(raycap, line)
    for block in docs_blocks("python"):
        if block.reason is None:
            command = [sys.executable, "-c", block.text]
            subprocess.run(command, cwd=raycap.folder, env=raycap.env, check=True)
    assert len(list((raycap.folder / "tars").glob("*.tar"))) == 1
