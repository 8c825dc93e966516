"""Writes the references of commands and settings from the code: `python -m docs.reference`.

The pages are kept in the repository, so that they can be read there too; a test compares them with
what this makes.
"""

import inspect
import json
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic_core import to_jsonable_python
from typer.main import get_group
from typer.models import ArgumentInfo

from raycap.config import (
    CalibrateConfig,
    CaptionConfig,
    EvaluateConfig,
    PrepareConfig,
    ReportConfig,
    Section,
    StudyConfig,
    TrainConfig,
    TuneConfig,
    is_section,
)
from raycap.console import COMMANDS, app

DOCS = Path(__file__).parent
ROOTS: dict[str, type[Section]] = {
    "caption": CaptionConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "study": StudyConfig,
    "calibrate": CalibrateConfig,
}
"""The settings of each command; those that are not named take the ones of `caption`."""

_CLI_HEAD = """\
# Commands

<!-- Made by `python -m docs.reference`; change the commands, not this page. -->

`raycap COMMAND --help` says the same. Every setting that is no option here is given by
`--set section.field=value` or in a YAML file: see [settings](reference-config.md). What exit codes
mean for those who run jobs is in [operations](operations.md#exit-codes).

`python jobs/caption.py` takes the arguments of `raycap caption`, for `ray job submit`; so do
`jobs/finetune.py` (`raycap train`), `jobs/tune.py` and `jobs/study.py`.
"""
_CONFIG_HEAD = """\
# Settings

<!-- Made by `python -m docs.reference`; change `raycap/config`, not this page. -->

In a YAML file (`--config run.yaml`) or one by one (`--set engine.batch_size=16`), which wins. A
wrong name or value is refused with what is allowed there. Settings that are not given are as below;
`null` means that raycap decides, and the description says how. All settings of a run are kept
beside its output. `raycap status`, `verify`, `export` and `doctor` take the settings of `caption`,
and use those of `storage`.
"""

Row = tuple[str, ...]


def pages() -> dict[str, str]:
    """Make every generated page: its name in `docs/`, and its text."""
    return {"reference-cli.md": cli_page(), "reference-config.md": config_page()}


def cli_page() -> str:
    """Describe every command: what it does, its arguments and options."""
    return "\n".join([_CLI_HEAD, *(_command(command) for command in COMMANDS)])


def config_page() -> str:
    """Describe every setting: its name, type, default and meaning."""
    places = _places()
    commands = [f"## raycap {name}\n\n{_settings(root, '')}" for name, root in ROOTS.items()]
    sections = [
        f"### {section.__name__}\n\n{_prose(section)} {_where(found)}\n\n"
        + _settings(section, f"{found[0][1]}.")
        for section, found in sorted(places.items(), key=lambda item: item[0].__name__)
    ]
    head = "## Sections\n\nGroups of settings, several of which more than one command has.\n"
    return "\n".join([_CONFIG_HEAD, *commands, head, *sections])


def _command(command: Callable[..., None]) -> str:
    arguments: list[Row] = []
    options: list[Row] = []
    usage = [f"raycap {command.__name__}"]
    written = {found.name: found.opts for found in get_group(app).commands[command.__name__].params}
    for parameter in inspect.signature(command).parameters.values():
        kind, info = get_args(parameter.annotation)[:2]
        if isinstance(info, ArgumentInfo):
            name = parameter.name.upper()
            arguments.append((f"`{name}`", _argument_type(kind), info.help or ""))
            usage.append(f"{name}..." if get_origin(kind) is list else name)
        else:
            names = ", ".join(f"`{option}`" for option in written[parameter.name])
            options.append((names, _type(kind), _option_default(parameter), info.help or ""))
    text = [f"## raycap {command.__name__}\n", "```", " ".join([*usage, "[OPTIONS]"]), "```\n"]
    text.append(f"{inspect.getdoc(command)}\n")
    if arguments:
        text.append(_table(("argument", "", "meaning"), arguments))
    text.append(_table(("option", "value", "default", "meaning"), options))
    return "\n".join(text)


def _option_default(parameter: inspect.Parameter) -> str:
    is_shown = parameter.default is not None and parameter.default is not False
    return f"`{parameter.default}`" if is_shown else ""


def _argument_type(kind: Any) -> str:
    return "one or more" if get_origin(kind) is list else ""


def _type(kind: Any) -> str:
    """Say what an option takes; a switch takes nothing."""
    origin = get_origin(kind)
    if origin is list:
        return _type(get_args(kind)[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if origin in (Union, types.UnionType):
        return ", ".join(_type(item) for item in get_args(kind) if item is not type(None))
    names = {str: "text", int: "integer", float: "number", Path: "path", bool: ""}
    return names[kind]


def _places() -> dict[type[Section], list[tuple[str, str]]]:
    """Find every group of settings: the commands that have it, and under which name."""
    found: dict[type[Section], list[tuple[str, str]]] = {}
    for command, root in ROOTS.items():
        for section, path in _sections(root, ""):
            found.setdefault(section, []).append((command, path))
    for places in found.values():
        places.sort(key=lambda place: place[1].count("."))  # the shortest name first; stable
    return found


def _sections(section: type[Section], prefix: str) -> Iterator[tuple[type[Section], str]]:
    for name, field in section.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and is_section(kind):
                yield kind, f"{prefix}{name}"
                yield from _sections(kind, f"{prefix}{name}.")


def _where(places: list[tuple[str, str]]) -> str:
    by_path: dict[str, list[str]] = {}
    for command, path in places:
        by_path.setdefault(path, []).append(f"`{command}`")
    told = [f"`{path}` of {_listed(commands)}" for path, commands in by_path.items()]
    return f"It is {_listed(told)}."


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _settings(section: type[Section], prefix: str) -> str:
    described = section.model_json_schema()["properties"]
    rows: list[Row] = []
    for name, field in section.model_fields.items():
        kind = _schema_type(described[name])
        value = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else _default(value)
        rows.append((f"`{prefix}{name}`", kind, default, _one_line(field.description or "")))
    return _table(("setting", "type", "default", "meaning"), rows)


def _default(value: Any) -> str:
    if isinstance(value, Section):
        return "as there"
    return f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`"


def _schema_type(schema: dict[str, Any]) -> str:
    """Say in words what a JSON schema allows."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_schema_type(item) for item in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_schema_type(schema['items'])}"
    if schema.get("format") == "path":
        return "path"
    names = {
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "`null`",
        "object": "mapping",
    }
    return names[schema["type"]] + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    """Say between which values a number has to be."""
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    told = [f"{word} {_number(schema[key])}" for key, word in words.items() if key in schema]
    return f" ({', '.join(told)})" if told else ""


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def _prose(section: type[Section]) -> str:
    return _one_line(inspect.getdoc(section) or "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(head: Row, rows: list[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
