"""`raycap train` as a person runs it: stopped, killed, and continued by the same command."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import InProcess
from tests.support.commandline import CommandLine, wait_until
from tests.support.tiny_dataset import write_dataset

SETTINGS = (
    *("--kind", "blip", "--init", "demo"),
    *("--set", "train.lr=1e-3", "--set", "train.batch_size=4", "--set", "train.num_epochs=2"),
    *("--set", "train.checkpoint_every_s=0.1", "--set", "generation.num_beams=1"),
    *("--set", "engine.torch_threads=1"),
)


def checkpoints(output: Path) -> list[Path]:
    return sorted(output.glob("checkpoints/step-*/checkpoint.json"))


def history(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(1200)
def test_a_training_run_is_stopped_and_killed_and_the_same_command_completes_it(
    raycap: CommandLine, cli: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    # That it is then the model of an undisturbed run is shown by tests/integration/test_train.py.
    write_dataset(str(raycap.folder / "set"), "train:120", "validation:8")
    output = raycap.folder / "run"
    for sent in (signal.SIGTERM, signal.SIGKILL):
        before = checkpoints(output)
        process = raycap.start("train", "set", "run", *SETTINGS)
        wait_until(lambda before=before: bool(set(checkpoints(output)) - set(before)), process)  # type: ignore[misc]
        os.kill(process.pid, sent)
        _, err = process.communicate(timeout=300)
        assert process.returncode == (1 if sent is signal.SIGTERM else -9), err
        assert "Traceback" not in err
        assert "resumed epoch=" in err or not before
        assert not (output / "training.json").exists()
    caplog.set_level(logging.INFO)
    code, out, err = cli("train", "set", "run", *SETTINGS)
    assert code == 0, err
    assert "resumed epoch=" in caplog.text
    assert "best epoch" in out
    assert [record["epoch"] for record in history(output)] == [1, 2]
    assert (output / "model/model.safetensors").is_file()
