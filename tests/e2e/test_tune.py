"""`raycap tune` as a person runs it: killed in the middle, and gone on with."""

import json
import logging
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.cli import InProcess
from tests.support.commandline import CommandLine, wait_until
from tests.support.tiny_dataset import write_dataset

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

SETTINGS = (
    *("--kind", "hybrid", "--set", "tune.space.train.lr=[1e-3, 1e-2]"),
    *("--set", "architecture.encoder=small-cnn", "--set", "architecture.image_px=64"),
    *("--set", "architecture.width=32", "--set", "architecture.num_layers=1"),
    *("--set", "train.num_epochs=2", "--set", "train.batch_size=8"),
    *("--set", "generation.num_beams=1", "--set", "engine.torch_threads=1"),
    *("--set", "tune.scheduler=none"),
)


def written(folder: Path) -> dict[str, int]:
    """When each file of a trial was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


@pytest.mark.timeout(600)
def test_kill_9_in_the_middle_and_the_same_command_runs_only_what_is_left(
    raycap: CommandLine, cli: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(str(raycap.folder / "set"), "train:40", "validation:6")
    search = raycap.folder / "search"
    process = raycap.start("tune", "set", "search", *SETTINGS)
    wait_until(
        lambda: (
            bool(list(search.glob("trials/*/trial.json")))
            and len(list(search.glob("trials/*"))) == 2
        ),
        process,
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its workers end with it
    (over,) = (path.parent for path in search.glob("trials/*/trial.json"))
    before = written(over)
    assert json.loads((search / "tune.json").read_text())["end"] == ""

    caplog.set_level(logging.INFO)
    code, out, err = cli("tune", "set", "search", *SETTINGS)
    assert code == 0, err
    assert "raylet" not in out + err
    after = written(over)
    assert {name: after[name] for name in ("history.jsonl", "trial.json")} == {
        name: before[name] for name in ("history.jsonl", "trial.json")
    }
    found = json.loads((search / "tune.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["finished", "finished"]
    assert (found["trials"][0]["name"], found["end"]) == (over.name, "finished")
    assert (search / "model/model.safetensors").exists()
    assert "2 finished of 2 planned" in out
    assert "raycap caption YOUR_FOLDER captions/ --model" in out
    # Without a terminal, a line for each step of a trial that runs, and none of one that is over.
    assert re.search(
        r"trial=t-\w{8} train\.lr=0\.01 status=finished epochs=2 cider_d=", caplog.text
    )
    assert f"trial={over.name}" not in caplog.text

    caplog.clear()
    code, again, err = cli("tune", "set", "search", *SETTINGS)
    assert (code, again) == (0, out), err
    assert "trial=" not in caplog.text
