"""The command line answers at once, tells mistakes in one line, and exits as documented."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commandline import CommandLine, rows_of, write_images

COMMANDS = (
    "caption",
    "status",
    "verify",
    "export",
    "prepare",
    "evaluate",
    "report",
    "train",
    "calibrate",
    "doctor",
    "demo",
)


def test_importing_the_command_line_loads_neither_ray_nor_torch() -> None:
    code = (
        "import sys, raycap.console; "
        "heavy = {'ray', 'torch', 'transformers', 'boto3', 'pyarrow'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command(raycap: CommandLine) -> None:
    code, out, _ = raycap("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(raycap: CommandLine, command: str) -> None:
    code, out, _ = raycap(command, "--help")
    assert code == 0
    assert f"Example: raycap {command}" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("caption", "nowhere", "out"), 2, "nowhere: no such file or folder"),
        (("caption", "photos", "out", "--set", "engine.zz=1"), 2, "engine.zz: no such setting"),
        (("caption", "photos", "out", "--set", "engine"), 2, "--set section.field=value"),
        (("caption", "photos", "out", "--model", "./none"), 1, "none"),
        (("caption", "photos", "https://host/out"), 2, "web address"),
        (("caption", "photos", "nosuchthing://b/out"), 2, "nosuchthing:// is not a known kind"),
        (("verify", "photos"), 1, "is not an output of raycap"),
        (("status", "photos"), 1, "is not an output of raycap"),
        (("caption", "photos"), 2, "Missing argument"),
        (("caption", "photos", "out", "--below", "-1.2"), 2, "model and below go together"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_exit_code(
    raycap: CommandLine, arguments: tuple[str, ...], code: int, message: str
) -> None:
    write_images(raycap.folder / "photos", 1)
    got, out, err = raycap(*arguments)
    assert got == code
    assert message in " ".join(err.split())
    assert "Traceback" not in out + err
    assert not (raycap.folder / "out").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        # As of a head that was killed, whose address `ray start` left behind.
        ("127.0.0.1:1", "the Ray cluster at .*:1, which RAY_ADDRESS named, does not answer"),
        ("nonsense", "RAY_ADDRESS=nonsense names no Ray cluster"),
        ("ray://127.0.0.1:10001", "raycap does not run through a remote client"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    raycap: CommandLine, address: str, message: str
) -> None:
    write_images(raycap.folder / "photos", 1)
    raycap.env["RAY_ADDRESS"] = address
    code, out, err = raycap("caption", "photos", "out", "--model", "stub", timeout_s=60)
    assert code == 2
    assert re.search(message, " ".join(err.split()))
    assert "Traceback" not in out + err


def test_a_run_prints_its_counts_and_a_dry_run_writes_nothing(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", 12)
    code, out, _ = raycap("caption", "photos", "out", "--model", "stub", "--dry-run")
    assert code == 0
    assert "images to caption  12" in out
    assert not (raycap.folder / "out").exists()
    code, out, err = raycap("caption", "photos", "out", "--model", "stub")
    assert code == 0, err
    assert "captioned   12" in out
    assert "images_per_s" in err
    assert "Traceback" not in err
    assert "core_worker" not in err
    code, out, _ = raycap("caption", "photos", "out", "--model", "stub", "--dry-run")
    assert "images to caption  0" in out
    code, out, _ = raycap("verify", "out")
    assert code == 0
    assert "every image has exactly one row" in out


def test_too_many_failed_images_exit_with_3_and_all_rows_are_there(raycap: CommandLine) -> None:
    photos = raycap.folder / "photos"
    write_images(photos, 3)
    (photos / "bad.jpg").write_bytes(b"not an image")
    code, _, err = raycap("caption", "photos", "out", "--model", "stub")
    assert code == 3
    assert "25.0% of the images failed" in err
    assert len(rows_of(raycap.folder / "out")) == 4
    code, _, _ = raycap(
        "caption", "photos", "out", "--model", "stub", "--set", "engine.max_failed_share=0.5"
    )
    assert code == 0


@pytest.mark.timeout(900)
def test_the_demo_closes_the_length_gap_from_end_to_end(raycap: CommandLine) -> None:
    code, out, err = raycap("demo", "--output", "shown", timeout_s=850)
    assert code == 0, err
    assert "every image has exactly one row" in out
    folder = raycap.folder / "shown"
    summary = json.loads((folder / "before/summary.json").read_text())
    assert (summary["num_ok"], summary["num_failed"]) == (300, 4)
    record = json.loads((folder / "demo.json").read_text())
    before, after, wanted = record["before"], record["after"], record["references"]["mean_words"]
    assert 7 <= before["mean_words"] <= 8
    assert 17 <= wanted <= 18
    assert abs(after["mean_words"] - wanted) <= 1
    assert after["cider"] > 2 * before["cider"]
    assert after["bleu_4"] > 2 * before["bleu_4"]
    assert (folder / "report.html").stat().st_size > 100_000
    assert rows_of(folder / "after")


def test_the_job_script_takes_the_same_arguments(raycap: CommandLine) -> None:
    write_images(raycap.folder / "photos", 3)
    job = Path(__file__).parents[2] / "jobs" / "caption.py"
    done = subprocess.run(
        [sys.executable, str(job), "photos", "out", "--model", "stub"],
        cwd=raycap.folder,
        env=raycap.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows_of(raycap.folder / "out")) == 3
