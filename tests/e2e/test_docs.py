"""The examples of the documentation do what it says; integration has those of docs/python.md."""

import subprocess
import sys

import pytest

from tests.support.commandline import CommandLine
from tests.support.documents import (
    docs_blocks,
    docs_commands,
    run,
    undescribed_files,
    write_examples,
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_examples_of_the_docs_run_page_by_page(raycap: CommandLine) -> None:
    write_examples(raycap.folder)
    for command in docs_commands():
        run(raycap, command)
    for block in docs_blocks("python"):
        if block.reason is None and block.page != "python.md":
            python = [sys.executable, "-c", block.text]
            subprocess.run(python, cwd=raycap.folder, env=raycap.env, check=True)
    for page in ("report.html", "training.html", "search.html", "study/report.html"):
        assert "</html>" in (raycap.folder / page).read_text()
    assert undescribed_files(raycap.folder / "search", "| `tune` |") == []
    assert undescribed_files(raycap.folder / "study", "| `study` |") == []
