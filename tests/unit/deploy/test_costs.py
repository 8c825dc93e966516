"""What a million images cost follows from stated throughputs and prices, as the docs show it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "deploy/costs.py"
FILE = ROOT / "deploy/costs.yaml"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def printed() -> str:
    done = run()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documentation_shows_what_the_script_prints(printed: str) -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    shown = re.search(r"<!-- costs:.*?-->\n\n(.*?\n)\n<!-- end of costs -->", page, re.S)
    assert shown
    assert shown[1] == printed, "run python deploy/costs.py and put its table in"


def test_the_figures_are_said_to_be_assumptions() -> None:
    assert "EVERY FIGURE HERE IS AN ASSUMPTION" in FILE.read_text()
    page = (ROOT / "docs/cluster.md").read_text()
    assert "None of these figures was measured" in page


def test_every_gpu_of_the_file_has_its_row(printed: str) -> None:
    names = [gpu["name"] for gpu in yaml.safe_load(FILE.read_text())["gpus"]]
    assert [line.split(" | ")[0].removeprefix("| ") for line in printed.splitlines()[2:]] == names


def test_a_cost_worked_out_by_hand(tmp_path: Path) -> None:
    # 1,000,000 images at 100/s, busy half the time: 20,000 s, 5.5556 hours of one GPU of four.
    costs = {
        "busy_share": 0.5,
        "usd_per_million_reads": 0.25,
        "head": {"usd_per_hour": 0.4, "num_gpus": 2},
        "gpus": [
            {
                "name": "G",
                "machine": "m",
                "num_gpus": 4,
                "images_per_s": 100,
                "usd_per_hour": 4.0,
                "spot_usd_per_hour": 2.0,
            }
        ],
    }
    file = tmp_path / "costs.yaml"
    file.write_text(yaml.safe_dump(costs))
    # 5.5556 * (4/4 + 0.4/2) + 0.25 = 6.9167; 5.5556 * (2/4 + 0.2) + 0.25 = 4.1389
    assert run(str(file)).stdout.splitlines()[-1] == "| G | m | 100 | 5.56 | 6.92 | 4.14 |"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("images_per_s: 40 ", "images_per_s: 0 ", "images_per_s"),
        ("busy_share: 0.9 ", "busy_share: 90 ", "busy_share"),
        ("    usd_per_hour: 0.75\n", "", "usd_per_hour"),
        ("machine: g4dn", "maschine: g4dn", "maschine"),
        ("gpus:", "gpus: [", "line"),
    ],
)
def test_a_wrong_figure_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    file = tmp_path / "costs.yaml"
    text = FILE.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    done = run(str(file))
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
