"""Base class of all groups of settings: frozen, validated, with units in field names."""

from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from raycap.errors import ConfigError

Choice = TypeVar("Choice", bound=StrEnum)


def is_section(kind: object) -> bool:
    """Whether the type of a field is a group of settings."""
    return isinstance(kind, type) and issubclass(kind, Section)


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty_sections(cls, values: Any) -> Any:
        """Accept a section whose settings are all commented out, which YAML reads as null."""
        if not isinstance(values, dict):
            return values
        empty = [
            name
            for name, field in cls.model_fields.items()
            if is_section(field.annotation) and values.get(name, ...) is None
        ]
        return {name: value for name, value in values.items() if name not in empty}


def choose(kind: type[Choice], value: str, argument: str) -> Choice:
    """Return the member of an enumeration that has this value.

    Raises:
        ConfigError: there is none; names the argument and the values allowed.
    """
    try:
        return kind(value)
    except ValueError:
        allowed = ", ".join(kind)
        raise ConfigError(
            f"{argument}={value!r} is not one of: {allowed}", setting=argument
        ) from None
