"""The command line answers at once, and exits as documented."""

import json
import re
import subprocess
import sys

import pytest

from tests.support.cli import InProcess
from tests.support.commandline import CommandLine, rows_of, write_images


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("raycap.console", {"ray", "torch", "transformers", "boto3", "pyarrow"}),
        # Until an image is pending.
        ("raycap.captioning.run", {"ray", "torch", "transformers", "pandas"}),
    ],
)
def test_importing_a_module_does_not_load_what_takes_seconds(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NO_CLUSTER = """
import os
from raycap.cluster.start import ray_cluster
from raycap.errors import ConfigError

for address in ("127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001"):
    os.environ["RAY_ADDRESS"] = address
    try:
        with ray_cluster():
            print("connected to", address)
    except ConfigError as error:
        assert address.removeprefix("127.0.0.1") in str(error), error
"""


def test_a_cluster_that_does_not_answer_is_refused_at_once(raycap: CommandLine) -> None:
    # The first as of a head that was killed, whose address `ray start` left behind.
    done = subprocess.run(
        [sys.executable, "-c", NO_CLUSTER],
        env=raycap.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.usefixtures("ray_session")
def test_a_dry_run_writes_nothing_and_too_many_failed_images_exit_with_3(cli: InProcess) -> None:
    photos = cli.folder / "photos"
    write_images(photos, 3)
    (photos / "bad.jpg").write_bytes(b"not an image")
    caption = ("caption", "photos", "out", "--model", "stub")
    code, out, _ = cli(*caption, "--dry-run")
    assert code == 0
    assert re.search(r"images to caption +4\b", out)
    assert not (cli.folder / "out").exists()
    code, _, err = cli(*caption)
    assert code == 3
    assert "25.0%" in err
    assert "--retry-failed" in err
    assert len(rows_of(cli.folder / "out")) == 4
    code, out, _ = cli(*caption, "--set", "engine.max_failed_share=0.5")
    assert code == 0
    assert re.search(r"captioned +3\b", out)
    assert re.search(r"images to caption +0\b", cli(*caption, "--dry-run")[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_closes_the_length_gap_from_end_to_end(raycap: CommandLine) -> None:
    code, out, err = raycap("demo", "shown", timeout_s=850)
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
