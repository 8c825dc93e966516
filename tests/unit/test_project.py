"""What the repository says of itself is true."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from raycap.config import CaptionConfig, Section, StudyConfig, TrainConfig
from raycap.config.loading import load_config

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    """The normalised name of a requirement such as `ray[data]>=2.60,<2.64` (PEP 503)."""
    return re.split(r"[\[<>=~;]", requirement)[0].strip().lower().replace("_", "-")


def modules() -> set[str]:
    """Return the names of the packages and top-level modules of raycap."""
    packages = {path.parent.name for path in (ROOT / "raycap").glob("*/__init__.py")}
    files = {path.stem for path in (ROOT / "raycap").glob("*.py")}
    return (packages | files) - {"__init__", "__main__"}


def package_map() -> dict[str, str]:
    """Return ARCHITECTURE's package map: name to purpose.

    The table's heading row begins with `| package |`; a row may name several modules.
    """
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = re.search(r"^\| package \|.*\n\|[-| :]+\n((?:\|.*\n)+)", text, re.M)
    assert table, "ARCHITECTURE.md has no table whose heading begins with `| package |`"
    rows = [row.split("|") for row in table[1].splitlines()]
    named = [(name, row[2].strip()) for row in rows for name in re.findall(r"`(\w+)/?`", row[1])]
    names = [name for name, _ in named]
    assert len(names) == len(set(names)), "a module is named twice"
    return dict(named)


def test_the_package_map_names_every_package_with_its_purpose_and_no_other() -> None:
    found = package_map()
    assert set(found) == modules()
    assert all(found.values())


def test_every_third_party_import_is_a_declared_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    optional = [item for name, items in extras.items() if name != "dev" for item in items]
    declared = {name_of(item) for item in [*PROJECT["dependencies"], *optional]}
    distributions = packages_distributions()
    for file in (ROOT / "raycap").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names}:
                if top in sys.stdlib_module_names or top in ("raycap", "mypy_boto3_s3"):
                    continue
                owners = {name_of(owner) for owner in distributions[top]}
                owners |= {"boto3"} if top == "botocore" else set()
                assert owners & declared, f"{file.name} imports {top}"


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == PROJECT["version"]


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_every_shipped_config_is_valid(file: Path) -> None:
    kinds: dict[str, type[Section]] = {"finetune": TrainConfig, "study": StudyConfig}
    load_config(kinds.get(file.name.partition("-")[0], CaptionConfig), file, [])


def test_the_constraints_pin_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {name_of(line) for line in lines if not line.startswith("#")}
    for item in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        assert name_of(item) in pinned, item


def test_captioning_starts_without_what_only_training_needs() -> None:
    code = (
        "import raycap.console.progress, raycap.console.caption, raycap.captioning.run, sys\n"
        "print(*sorted({'torch', 'transformers', 'ray.tune', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
