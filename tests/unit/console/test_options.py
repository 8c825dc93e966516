"""The options of the command line and the arguments of Python speak one language."""

import inspect
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest

import raycap
from docs.reference import ROOTS, command_named, pages
from raycap.config import AnnotationFormatName, CaptionConfig, StorageConfig
from raycap.config.loading import load_config
from raycap.console import ALL_COMMANDS
from raycap.datasets.readers.recognition import AnnotationFormat
from raycap.results.captioning import write_summary
from raycap.storage.stores import open_store
from tests.support.cli import InProcess, function_name
from tests.support.outputs import row, summary, write_output

NAMES = list(ALL_COMMANDS)
CLI_ONLY = {"config", "settings", "debug", "json", "help"}
"""Of the command line itself: Python takes settings as one object, and returns results."""
OTHER_FUNCTIONS = {"dry_run", "preflight"}
"""Options of `caption` that are functions of their own: `forecast` and `preflight`."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_an_option_has_the_name_of_the_argument_in_python(name: str) -> None:
    command = command_named(name)
    options = {str(parameter.name) for parameter in command.params} - CLI_ONLY
    arguments = set(inspect.signature(getattr(raycap, function_name(name))).parameters)
    assert options - OTHER_FUNCTIONS <= arguments


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_set_is_a_setting_of_the_command(name: str) -> None:
    command = command_named(name)
    helps = [getattr(parameter, "help", "") for parameter in command.params]
    (example,) = [
        match[1]
        for text in helps
        if text and (match := re.search(r"Override a setting, for example `(.+)`;", text))
    ] or [None]
    if name == "demo":
        assert example is None
        return
    assert example is not None
    chosen = load_config(ROOTS.get(name, CaptionConfig), None, [example])
    assert chosen.model_dump(exclude_unset=True)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_in_capitals_without_braces(name: str, cli: InProcess) -> None:
    code, out, _ = cli(*name.split(), "--help")
    assert code == 0
    (usage,) = [line for line in out.splitlines() if "Usage:" in line]
    assert not set("{}") & set(usage)
    assert (
        usage.partition("[OPTIONS]")[2].upper().split() == usage.partition("[OPTIONS]")[2].split()
    )


def test_the_references_show_no_value_of_python() -> None:
    for text in pages().values():
        assert "<class" not in text
        assert "inspect." not in text


def test_formats_of_the_command_line_are_those_of_the_registry() -> None:
    assert get_args(AnnotationFormatName) == tuple(AnnotationFormat)


def test_the_version_is_told(cli: InProcess) -> None:
    assert cli("--version")[:2] == (0, f"raycap {version('raycap')}\n")


@pytest.mark.parametrize(
    "command",
    [
        "caption nowhere out --model stub",
        "caption photos out --model ./nowhere",
        "status nowhere",
        "verify nowhere",
        "export nowhere x.csv --to csv",
        "prepare nowhere out",
        "evaluate nowhere.jsonl refs.jsonl",
        "evaluate nowhere refs.jsonl",
        "evaluate few.jsonl nowhere",
        "report nowhere",
        "train nowhere out",
        "tune nowhere out",
        "study nowhere out",
        "calibrate demo nowhere out",
        "calibrate ./nowhere photos out",
        "status nowhere --config nowhere.yaml",
    ],
)
def test_a_path_that_does_not_exist_has_one_exit_code(command: str, cli: InProcess) -> None:
    (cli.folder / "photos").mkdir()
    for name in ("few.jsonl", "refs.jsonl"):
        (cli.folder / name).write_text('{"image_id": "a.jpg", "caption": "a cat"}\n')
    code, out, err = cli(*command.split())
    assert (code, out) == (2, "")
    assert "nowhere" in err
    assert not (cli.folder / "out").exists()


def test_status_and_verify_print_json(cli: InProcess) -> None:
    store = open_store(str(cli.folder / "out"), StorageConfig())
    write_output(store, [row("a.jpg")])
    write_summary(store, summary(1))
    code, out, _ = cli("verify", "out", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["is_complete"], found["is_sound"]) == ("captions", True, True)
    assert (found["num_images"], found["num_ok"], found["problems"]) == (1, 1, [])
    code, out, _ = cli("status", "out", "--json")
    assert set(json.loads(out)) >= {"kind", "state", "beat", "age_s"}


def test_the_output_of_a_run_is_no_model_but_holds_one(cli: InProcess) -> None:
    Path("photos").mkdir()
    (Path("run") / "model").mkdir(parents=True)
    for file in ("run/run.json", "run/config.json", "run/model/config.json"):
        Path(file).write_text("{}")
    code, _, err = cli("caption", "photos", "out", "--model", "run/")
    assert code == 1
    assert "run/model?" in err
