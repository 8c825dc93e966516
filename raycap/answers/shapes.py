"""From a JSON schema to the Arrow type of the answers that satisfy it.

Arrow gives every value of a column one type, which JSON schemas need not do. So a part of them is
supported: objects with known properties, arrays of one kind of item, strings, integers, numbers,
booleans and enumerations of those, each of which may also be null. Whatever else a schema says is
refused at the start of a run, with the path of the place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyarrow as pa
import regex

from raycap.errors import ConfigError
from raycap.text import brief

_SCALARS = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_KINDS: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_STRUCTURE = {
    *("$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const"),
    *("properties", "required", "additionalProperties", "items"),
}
_BOUNDS = {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems"),
}
_NOTES = {
    *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"),
    *("examples", "deprecated", "readOnly", "writeOnly", "format"),
}
_LEAST, _MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A place of a schema: what a value there may be."""

    arrow: pa.DataType
    schema: dict[str, Any]
    """The schema without references, notes and doubt: each place has a type, and no object has
    properties that are not listed."""
    is_nullable: bool
    properties: "Mapping[str, Shape]" = field(default_factory=dict)
    """Of an object."""
    required: frozenset[str] = frozenset()
    """Those that an object must have."""
    item: "Shape | None" = None
    """Of an array."""


def shape_of(schema: Mapping[str, Any], setting: str) -> Shape:
    """Return the shape of a JSON schema.

    Args:
        schema: as a user wrote it.
        setting: the name of the setting that has it.

    Raises:
        ConfigError: it is not a JSON schema, or says something that is not supported.
    """
    from raycap.answers.validation import schema_fault  # noqa: PLC0415  jsonschema is slow

    try:
        fault = schema_fault(schema)
        if fault is not None:
            place = ".".join([setting, *fault[0]])
            raise ConfigError(
                f"{place}: is not valid in a JSON schema: {brief(fault[1], 200)}", setting=setting
            )
        return _Reading(schema, setting).shape(schema, ())
    except RecursionError:
        raise ConfigError(f"{setting}: is nested too deeply", setting=setting) from None


class _Reading:
    """Reads one schema."""

    def __init__(self, root: Mapping[str, Any], setting: str) -> None:
        self._root = root
        self._setting = setting

    def shape(self, given: Any, path: tuple[str, ...], refs: tuple[str, ...] = ()) -> Shape:
        if not isinstance(given, Mapping):
            self._refuse(path, "says nothing about the type: give it a `type`")
        node, refs, is_nullable = self._merged(dict(given), path, refs)
        unknown = sorted(node.keys() - _STRUCTURE - _BOUNDS - _NOTES)
        if unknown:
            self._refuse((*path, unknown[0]), "is not supported: leave it out")
        kind, may_be_null = self._kind(node, path)
        is_nullable = is_nullable or may_be_null
        bounds = {name: value for name, value in node.items() if name in _BOUNDS}
        self._check_pattern(bounds, path)
        closed = {"type": [kind, "null"] if is_nullable else kind, **bounds}
        if "enum" in node:
            values = [value for value in node["enum"] if value is not None]
            closed["enum"] = [*values, None] if is_nullable else values
        make: Callable[..., Shape] = {"object": self._object, "array": self._array}.get(
            kind, self._scalar
        )
        return make(node, closed, path, refs=refs, is_nullable=is_nullable)

    def _object(
        self,
        node: dict[str, Any],
        closed: dict[str, Any],
        path: tuple[str, ...],
        *,
        refs: tuple[str, ...],
        is_nullable: bool,
    ) -> Shape:
        if node.get("additionalProperties", False) is not False:
            self._refuse(
                (*path, "additionalProperties"), "must be false: a column has fixed fields"
            )
        found = {
            name: self.shape(inner, (*path, "properties", name), refs)
            for name, inner in node.get("properties", {}).items()
        }
        if not found:
            self._refuse(path, "is an object without `properties`: list them")
        for name in found:
            if not name or not _is_unicode(name):
                self._refuse((*path, "properties", name), "cannot name a column")
        required = frozenset(node.get("required", ()))
        for name in sorted(required - found.keys()):
            self._refuse((*path, "required"), f"{name!r} is not among the `properties`")
        closed |= {
            "properties": {name: shape.schema for name, shape in found.items()},
            "required": [name for name in found if name in required],
            "additionalProperties": False,
        }
        arrow = pa.struct([pa.field(name, shape.arrow) for name, shape in found.items()])
        return Shape(
            arrow=arrow,
            schema=closed,
            is_nullable=is_nullable,
            properties=found,
            required=required,
        )

    def _array(
        self,
        node: dict[str, Any],
        closed: dict[str, Any],
        path: tuple[str, ...],
        *,
        refs: tuple[str, ...],
        is_nullable: bool,
    ) -> Shape:
        if "items" not in node:
            self._refuse(path, "is an array without `items`: say what it holds")
        item = self.shape(node["items"], (*path, "items"), refs)
        closed["items"] = item.schema
        return Shape(arrow=pa.list_(item.arrow), schema=closed, is_nullable=is_nullable, item=item)

    def _scalar(
        self,
        node: dict[str, Any],
        closed: dict[str, Any],
        path: tuple[str, ...],
        *,
        refs: tuple[str, ...],
        is_nullable: bool,
    ) -> Shape:
        del node, path, refs
        if closed["type"] in ("integer", ["integer", "null"]):  # as far as the column holds them
            closed["minimum"] = max(closed.get("minimum", _LEAST), _LEAST)
            closed["maximum"] = min(closed.get("maximum", _MOST), _MOST)
        kind = closed["type"][0] if is_nullable else closed["type"]
        return Shape(arrow=_SCALARS[kind], schema=closed, is_nullable=is_nullable)

    def _merged(
        self, node: dict[str, Any], path: tuple[str, ...], refs: tuple[str, ...]
    ) -> tuple[dict[str, Any], tuple[str, ...], bool]:
        """Put references and single alternatives in place; return whether null is one, too."""
        is_nullable = False
        while True:
            if "$ref" in node:
                ref = node.pop("$ref")
                if ref in refs:
                    self._refuse((*path, "$ref"), f"{ref!r} contains itself: a column cannot")
                refs = (*refs, ref)
                inner = self._referred(ref, path)
            elif any(name in node for name in _CHOICES):
                name = next(name for name in _CHOICES if name in node)
                options = node.pop(name)
                others = [one for one in options if not _is_null(one)]
                if len(others) != 1 or (name == "allOf" and len(options) > 1):
                    self._refuse(
                        (*path, name), "is supported only to add null to one type: choose one type"
                    )
                is_nullable = is_nullable or len(others) < len(options)
                inner = others[0]
            else:
                return node, refs, is_nullable
            if not isinstance(inner, Mapping):
                self._refuse(path, "says nothing about the type: give it a `type`")
            for twice in sorted(inner.keys() & node.keys() - _NOTES):
                self._refuse(
                    (*path, twice), "is there twice: once here, and once where this refers"
                )
            node = {**inner, **node}

    def _referred(self, ref: str, path: tuple[str, ...]) -> Any:
        if not ref.startswith("#"):
            self._refuse((*path, "$ref"), f"{ref!r} is not within the schema")
        found: Any = self._root
        for step in filter(None, ref[1:].split("/")):
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                self._refuse((*path, "$ref"), f"{ref!r} refers to nothing")
            found = found[name]
        return found

    def _kind(self, node: dict[str, Any], path: tuple[str, ...]) -> tuple[str, bool]:
        """Return the type of a place, and whether null is allowed beside it."""
        if "const" in node:
            node["enum"] = [node.pop("const")]
        given = node.get("type", [])
        types = {given} if isinstance(given, str) else set(given)
        may_be_null = "null" in types
        if "enum" in node:
            may_be_null = None in node["enum"] and (may_be_null or not types)
            types = self._kinds_of(node["enum"], types, path)
        elif not types:
            types = {kind for key, kind in _IMPLIED.items() if key in node}
        types -= {"null"}
        if types == {"integer", "number"}:
            types = {"number"}
        if len(types) != 1:
            named = " and ".join(sorted(types)) or "no type"
            self._refuse((*path, "type"), f"has {named}: give exactly one, or one and null")
        return types.pop(), may_be_null

    def _kinds_of(self, values: list[Any], allowed: set[str], path: tuple[str, ...]) -> set[str]:
        """Return the types of the values of an enumeration."""
        kinds = set()
        for value in values:
            if value is None:
                continue
            if type(value) not in _KINDS:
                self._refuse((*path, "enum"), "may hold texts, numbers, booleans and null only")
            if isinstance(value, int) and not _LEAST <= value <= _MOST:
                self._refuse((*path, "enum"), f"{brief(str(value), 30)} has more than 64 bits")
            if isinstance(value, str) and not _is_unicode(value):
                self._refuse((*path, "enum"), "has a text that is not Unicode")
            kind = _KINDS[type(value)]
            if allowed and kind not in allowed and not (kind == "integer" and "number" in allowed):
                self._refuse((*path, "enum"), f"{brief(repr(value), 30)} is not of its `type`")
            kinds.add(kind)
        return kinds

    def _check_pattern(self, bounds: dict[str, Any], path: tuple[str, ...]) -> None:
        if "pattern" in bounds:
            try:
                regex.compile(bounds["pattern"])
            except regex.error as error:
                self._refuse((*path, "pattern"), f"is not a regular expression: {error}")

    def _refuse(self, path: tuple[str, ...], reason: str) -> NoReturn:
        place = ".".join([self._setting, *path])
        raise ConfigError(f"{place}: {reason}", setting=self._setting)


_CHOICES = ("allOf", "anyOf", "oneOf")
_IMPLIED = {"properties": "object", "items": "array"}


def _is_null(schema: Any) -> bool:
    """Whether a schema allows null only."""
    if not isinstance(schema, Mapping):
        return False
    return schema.get("type") == "null" or schema.get("enum", [schema.get("const", "")]) == [None]


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
