"""Commands that read outputs, without Ray: damaged files of an output end in one line."""

import re
from pathlib import Path

import pytest

from raycap.captioning.claim import settle
from raycap.config import CaptionConfig, StorageConfig
from raycap.config.loading import load_config
from raycap.results.captioning import write_summary
from raycap.runs.records import RUN, encode_json
from raycap.storage.stores import open_store
from tests.support.cli import InProcess
from tests.support.commandline import write_images
from tests.support.evaluation_samples import write_references
from tests.support.outputs import row, summary, write_output

NAMES = [f"{number:05d}.jpg" for number in range(3)]
FILES = ("run.json", "plan.json", "lock.json", "progress.json", "summary.json")
CONTENTS = {
    "deep": b"[" * 100_000,
    "list": b"[1]",
    "odd fingerprint": b'{"fingerprint": null}',
    "empty": b"",
    "folder": None,
}
COMMANDS = {
    "status": ("status", "out"),
    "verify": ("verify", "out"),
    "export": ("export", "out", "captions.csv", "--to", "csv"),
    "report": ("report", "out", "-o", "report.html"),
    "evaluate": ("evaluate", "out", "references.jsonl", "--set", "external.meteor=false"),
    "caption": ("caption", "photos", "out", "--model", "stub", "--dry-run"),
}


@pytest.fixture
def folder(cli: InProcess) -> Path:
    """Write photos, references and an output of these photos whose run is over."""
    write_images(cli.folder / "photos", 3)
    write_references(cli.folder / "references.jsonl", [["a cat on a mat"]] * 3)
    store = open_store(str(cli.folder / "out"), StorageConfig())
    write_output(store, [row(name) for name in NAMES])
    write_summary(store, summary(3))
    config = load_config(CaptionConfig, None, options={"model.name": "stub"})
    claim = settle(cli.folder / "photos", store, config, None).claim
    store.write(RUN, encode_json({"fingerprint": claim.fingerprint}))
    return cli.folder / "out"


def place(file: Path, content: bytes | None) -> None:
    file.unlink(missing_ok=True)
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_ends_every_command_in_at_most_one_line(
    cli: InProcess, folder: Path, name: str, content: str
) -> None:
    assert cli(*COMMANDS["caption"])[0] == 0
    place(folder / name, CONTENTS[content])
    for command, arguments in COMMANDS.items():
        code, out, err = cli(*arguments)
        told = f"{command}: {code}\n{out}{err}"
        assert code in (0, 1, 2), told
        assert len(re.findall("^error:", err, re.M)) <= 1, told
        assert "Traceback" not in out + err, told
