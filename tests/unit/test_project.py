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


def tracked_files() -> set[str]:
    """Every file of the project, whether or not git is there to ask."""
    ignored = re.compile(r"(^|/)(\.|__pycache__|build/|dist/|raycap-demo/|[^/]*\.egg-info)")
    kept = {".ci/run", ".gitignore"}
    files = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()}
    return {name for name in files if name in kept or not ignored.search(name)}


def readme_tree() -> dict[str, str]:
    """The README's tree: path to its one-line purpose."""
    block = re.search(r"<!-- tree:.*?-->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    lines = [line.split("  ", 1) for line in block[1].splitlines() if line]
    return {path.strip(): purpose.strip() for path, purpose in lines}


def test_the_readme_names_every_file_with_its_purpose_and_no_other() -> None:
    tree = readme_tree()
    folders = {path for path in tree if path.endswith("/")}
    for name in tracked_files():
        assert name in tree or any(name.startswith(folder) for folder in folders), name
    for path in tree:
        assert (ROOT / path).exists(), path
        assert tree[path], path


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
