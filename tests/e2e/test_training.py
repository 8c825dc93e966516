"""`raycap train` as a person runs it: killed, stopped, resumed; and as a Ray job's script."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.support.commandline import CommandLine, wait_until
from tests.support.tiny_dataset import write_dataset

FINETUNE = Path(__file__).parents[2] / "jobs" / "finetune.py"
SETTINGS = (
    *("--model", "blip", "--init", "demo"),
    *("--set", "train.lr=1e-3", "--set", "train.batch_size=4", "--set", "train.num_epochs=3"),
    *("--set", "train.checkpoint_every_s=0.1", "--set", "generation.num_beams=1"),
    *("--set", "engine.torch_threads=1"),
)


def losses(output: Path) -> list[Any]:
    lines = map(json.loads, (output / "history.jsonl").read_text().splitlines())
    return [[line[n] for n in ("train_loss", "fitted_loss", "validation_loss")] for line in lines]


def test_kill_9_of_the_driver_and_the_same_command_give_the_model_of_an_undisturbed_run(
    raycap: CommandLine,
) -> None:
    write_dataset(str(raycap.folder / "set"), "train:120", "validation:8")
    killed, whole = raycap.folder / "killed", raycap.folder / "whole"
    process = raycap.start("train", "set", "killed", *SETTINGS)
    # In the middle of the first epoch, or later where the machine is quick.
    wait_until(lambda: bool(list(killed.glob("checkpoints/step-*/checkpoint.json"))), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its workers end with it
    assert not (killed / "training.json").exists()

    code, out, err = raycap("train", "set", "killed", *SETTINGS)
    assert code == 0, err
    assert "resumed epoch=" in err
    assert "best epoch" in out
    code, _, err = raycap("train", "set", "whole", *SETTINGS)
    assert code == 0, err
    assert losses(killed) == losses(whole)
    a, b = (load_file(folder / "last" / "model.safetensors") for folder in (killed, whole))
    assert all(a[name].equal(b[name]) for name in b)


def test_sigterm_stops_at_the_next_step_and_the_same_command_continues(
    raycap: CommandLine,
) -> None:
    write_dataset(str(raycap.folder / "set"), "train:120", "validation:8")
    run = raycap.folder / "run"
    process = raycap.start("train", "set", "run", *SETTINGS)
    wait_until(lambda: bool(list(run.glob("checkpoints/step-*/checkpoint.json"))), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(r"stopped at step \d+ of epoch \d of 3 in .*; run the same command", err)
    assert "Traceback" not in err
    assert not (run / "training.json").exists()
    code, out, err = raycap("train", "set", "run", *SETTINGS)
    assert code == 0, err
    assert "resumed epoch=" in err
    assert "best epoch" in out


def test_the_jobs_script_is_the_same_command(raycap: CommandLine) -> None:
    done = subprocess.run(
        [sys.executable, str(FINETUNE), "missing", "out", "--model", "blip", "--init", "demo"],
        cwd=raycap.folder,
        env=raycap.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "missing" in done.stderr
    assert "Traceback" not in done.stderr
