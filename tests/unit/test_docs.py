"""What the documentation says of commands, settings, files and examples is true."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pydantic_core import to_jsonable_python

from docs.reference import ROOTS, command_named, pages
from raycap import schema
from raycap.captioning.prompts import settled_prompts
from raycap.config import CaptionConfig, Section, StudyConfig, TuneConfig, is_section
from raycap.config.loading import validate_config
from raycap.console import ALL_COMMANDS
from raycap.diagnostics import Check
from raycap.errors import ErrorCode
from raycap.experiments.study.planning import CALIBRATED, PRETRAINED, plan_systems, train_config
from raycap.experiments.tuning.space import read_space
from raycap.results.captioning import Beat, OutputStatus, Verification
from raycap.results.outputs import WorkStatus
from tests.support.documents import (
    DOCS,
    FORMATS,
    IN_DOCS,
    README,
    ROOT,
    Block,
    docs_blocks,
    docs_commands,
    is_run,
    navigation,
    readme_commands,
)

CLI = (DOCS / "reference-cli.md").read_text()
CONFIG = (DOCS / "reference-config.md").read_text()


def words(text: str) -> str:
    return " ".join(text.replace("\\|", "|").split())


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def heading_id(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def section(page: str, heading: str) -> str:
    """The text from a heading to the next one of its level or above."""
    level = heading.split()[0]
    found = re.search(
        rf"^{re.escape(heading)}$(.*?)(?=^#{{1,{len(level)}}} |\Z)", page, re.S | re.M
    )
    assert found, heading
    return found[1]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a table's lines, by the first of them."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]
    return {cells[0].strip(): [words(cell) for cell in cells[1:]] for cells in lines}


def fields(kind: type[Section], seen: set[type[Section]]) -> Iterator[type[Section]]:
    """Every group of settings below one, itself included."""
    if kind not in seen:
        seen.add(kind)
        yield kind
        for field in kind.model_fields.values():
            inner = (field.annotation, *getattr(field.annotation, "__args__", ()))
            for item in inner:
                if isinstance(item, type) and is_section(item):
                    yield from fields(item, seen)


FOUND = {kind for root in ROOTS.values() for kind in fields(root, set())}
SECTIONS = sorted(FOUND, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("name", ["reference-cli.md", "reference-config.md"])
def test_a_reference_is_what_the_code_makes(name: str) -> None:
    made = pages()[name]
    assert (DOCS / name).read_text() == made, "run: python -m docs.reference"


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_the_reference_has_all_that_a_command_says_of_itself(name: str) -> None:
    command = command_named(name)
    text = words(section(CLI, f"## raycap {name}"))
    assert words(inspect.cleandoc(command.help or "missing")) in text
    for parameter in command.params:
        if parameter.name != "help":
            said = getattr(parameter, "help", None)
            assert said, parameter.name
            assert words(said) in text
            is_option = parameter.param_type_name == "option"
            for written in parameter.opts if is_option else [str(parameter.name).upper()]:
                assert f"`{written}`" in text


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_setting_has_type_default_and_meaning(kind: type[Section]) -> None:
    commands = [name for name, root in ROOTS.items() if root is kind]
    headings = [f"## raycap {name}" for name in commands] or [f"### {kind.__name__}"]
    for heading in headings:
        table = rows(section(CONFIG, heading))
        for name, field in kind.model_fields.items():
            found = {key.strip("`").rpartition(".")[2]: cells for key, cells in table.items()}
            told, default, meaning = found[field.alias or name]
            assert told
            assert meaning == words(field.description or "missing")
            value = field.get_default(call_default_factory=True)
            if field.is_required():
                assert default == "required"
            elif not isinstance(value, Section):
                assert json.loads(default.strip("`")) == to_jsonable_python(value)


def test_every_command_of_the_readme_is_executed_or_says_why_not() -> None:
    for command in readme_commands():
        assert not is_run(command) or command.startswith("raycap "), f"{command}: add it to NOT_RUN"
        if command.startswith(IN_DOCS):
            assert command in docs_commands(), f"{command}: no page of docs/ shows it"


def test_every_command_of_the_docs_is_executed_or_says_why_not() -> None:
    known = set(readme_commands())
    for block in docs_blocks("bash"):
        assert block.reason != "", block
        for command in block.commands if block.reason is None else ():
            if is_run(command) and command not in known:
                mark = f"{command}: mark it <!-- not executed: why -->"
                assert command.startswith("raycap "), mark
                assert "s3://" not in command, mark


SETTINGS = [block for block in docs_blocks("yaml") if block.text.startswith("# raycap ")]


@pytest.mark.parametrize("block", SETTINGS, ids=lambda block: block.page)
def test_the_settings_shown_are_allowed(block: Block) -> None:
    command = block.text.splitlines()[0]
    values = yaml.safe_load(block.text)
    if command == "# raycap tune":
        assert read_space(validate_config(TuneConfig, values))
        return
    if command == "# raycap caption":
        assert settled_prompts(validate_config(CaptionConfig, values))
        return
    assert command == "# raycap study"
    config = validate_config(StudyConfig, values)
    trained = [
        system for system in plan_systems(config) if system.role not in (PRETRAINED, CALIBRATED)
    ]
    assert [train_config(system, config) for system in trained]


def type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        inner = ", ".join(f"{field.name}: {type_name(field.type)}" for field in kind)
        return f"struct<{inner}>"
    return str(kind)


@pytest.mark.parametrize(
    ("title", "table"),
    [
        ("A manifest part:", schema.MANIFEST),
        ("A captions part:", schema.CAPTIONS),
        ("A part of a split:", schema.DATASET),
        ("`rejected.parquet`:", schema.REJECTED),
        ("| `scores/part-000.parquet` |", schema.SCORES),
    ],
)
def test_every_column_is_described_with_its_type(title: str, table: pa.Schema) -> None:
    text = FORMATS.partition(title)[2].partition("| column |")[2].partition("\n\n")[0]
    told = [
        (name.strip(" `"), cells[0].strip("`"))
        for names, cells in rows(text).items()
        for name in names.split(",")
        if not names.startswith("-")
    ]
    assert told == [(field.name, type_name(field.type)) for field in table]


def test_every_error_code_is_described_with_its_class() -> None:
    table = rows(section(FORMATS, "## What `raycap caption` writes"))
    unfinished = ErrorCode.AWAITS_ORIGINAL
    for code in ErrorCode:
        lasting = "during a run" if code is unfinished else "permanent"
        assert table[f"`{code}`"][0] == ("transient" if code.is_transient else lasting)


def test_every_page_is_in_the_navigation() -> None:
    assert {path.name for path in DOCS.glob("*.md")} == set(navigation())


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.splitlines()) <= 240
    missing = {page for page in navigation() if f"(docs/{page}" not in README}
    assert missing <= {"index.md", "architecture.md"}  # the site's own first and last pages


PAGES = [*ROOT.glob("*.md"), *(DOCS / page for page in navigation())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in {heading_id(heading) for heading in headings}, target


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = re.findall(
        r"`(?:tests/)?((?:unit|integration|e2e|faults|fuzz)/[\w*]+\.py)`", text_of(page)
    )
    assert named
    for name in named:
        assert list((ROOT / "tests").glob(name)), name


def test_the_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in Path(DOCS / "pictures").iterdir()]
    assert sizes
    assert sum(sizes) < 300_000


@pytest.mark.parametrize("kind", [OutputStatus, Beat, WorkStatus, Verification, Check])
def test_the_fields_of_json_are_documented(kind: type[Any]) -> None:
    text = section(text_of("docs/python.md"), "## Results as JSON")
    assert {f"`{field.name}`" for field in dataclasses.fields(kind)} <= set(
        re.findall(r"`\w+`", text)
    )
