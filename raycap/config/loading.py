"""Reading settings from a YAML file and `--set key.path=value`, and explaining wrong ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import ValidationError

from raycap.config import Section, is_section
from raycap.errors import ConfigError
from raycap.parsing import parse_yaml

ConfigT = TypeVar("ConfigT", bound=Section)


def load_config(
    kind: type[ConfigT],
    file: Path | None,
    settings: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Read a YAML file, override it by `key.path=value` settings, and check the result.

    Args:
        kind: type of the settings.
        file: the YAML file; None for none.
        settings: `key.path=value` each.
        options: values of settings by name, which override both; None values are left out.

    Raises:
        ConfigError: the file cannot be read, a setting has no `=`, or a value is not allowed;
            the message names the setting and the values allowed.
    """
    values = _read_yaml(file) if file else {}
    for setting in settings or ():
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(
                f"--set {setting}: write it as --set section.field=value",
                setting=path.strip() or None,
            )
        is_text = _is_text(kind, path.strip())
        _assign(values, path.strip(), _parse_value(path.strip(), text.strip(), is_text=is_text))
    _assign_all(values, options or {})
    return validate_config(kind, values)


def override(config: ConfigT, options: Mapping[str, Any]) -> ConfigT:
    """Return settings with some values replaced, by name; None values are left out.

    Raises:
        ConfigError: a value is not allowed.
    """
    if all(value is None for value in options.values()):
        return config
    # Only what was set: any other setting would count as set by the user afterwards.
    values = config.model_dump(exclude_unset=True)
    _assign_all(values, options)
    return validate_config(type(config), values)


def _assign_all(values: dict[str, Any], options: Mapping[str, Any]) -> None:
    for path, value in options.items():
        if value is not None:
            _assign(values, path, value)


def validate_config(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Check a nested mapping of settings.

    Raises:
        ConfigError: a key is unknown, or a value is not allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_explain(kind, item) for item in error.errors()),
            setting=_path(error.errors()[0]) or None,
        ) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: cannot be read as YAML: {reason}", uri=str(file)) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ConfigError(
            f"{file}: must be a mapping of sections, such as 'engine: {{...}}'", uri=str(file)
        )
    return values


def _is_text(kind: type[Section], path: str) -> bool:
    """Whether a setting is text and nothing else, such as a prompt."""
    *sections, name = path.split(".")
    for section in sections:
        kind = _section_of(kind, section)
    field = kind.model_fields.get(name)
    return field is not None and field.annotation is str


def _parse_value(path: str, text: str, *, is_text: bool) -> Any:
    """Parse a value: as YAML if it is quoted, a mapping, a list or null, otherwise as text.

    Numbers and booleans stay text, which the field converts to its own type: a prompt may be
    "2024" or "no". So do braces and brackets in a setting that is text: a prompt may be "{tags}".
    """
    if text.lower() in ("null", "~"):
        return None
    if not text.startswith(("'", '"') if is_text else ("'", '"', "{", "[")):
        return text
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(
            f"--set {path}: {_brief(text)} is not a YAML value: {error}", setting=path
        ) from None


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, field = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {section} is a value, not a section", setting=path)
        values = inner
    values[field] = value


def _path(error: Any) -> str:
    """Return the name of the setting that a validation error is about."""
    return ".".join(str(item) for item in error["loc"])


def _explain(kind: type[Section], error: Any) -> str:
    """Return one line: which setting is wrong, and which values are allowed."""
    path = _path(error)
    if error["type"] != "extra_forbidden":
        reason = error["msg"].removeprefix("Value error, ")
        hint = " (write null for none)" if error["input"] in ("None", "none") else ""
        # Headers of endpoints may hold a secret, and so may sections with headers in them.
        may_hold_secret = "headers" in error["loc"] or "'headers'" in repr(error["input"])
        got = "" if may_hold_secret else f", got {_brief(error['input'])}{hint}"
        return f"{path or 'config'}: {reason}{got}"
    section = kind
    for name in error["loc"][:-1]:
        section = _section_of(section, str(name))
    names = ", ".join(field.alias or name for name, field in section.model_fields.items())
    return f"{path}: no such setting; there are: {names}"


def _section_of(section: type[Section], name: str) -> type[Section]:
    """Return the type of a section's field, which may be optional, or a list or mapping of it."""
    if name not in section.model_fields:  # an index or a key of those
        return section
    kind: Any = section.model_fields[name].annotation
    found = next((item for item in (kind, *get_args(kind)) if is_section(item)), section)
    return cast(type[Section], found)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
