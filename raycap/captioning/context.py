"""Context: what is known of an image beside its pixels, for the fields of prompts.

Some fields are those of the image itself: its name and folder, and what the camera noted. The
others come from columns of a list, from a metadata file or from sidecars; `metadata` reads the last
two. The listing knows the values of columns and metadata, so the manifest holds them, and of
sidecars their ETags. Planning compares that as it compares ETags: an image whose context has
changed is captioned again, and nothing else. Only fields that the run uses are carried anywhere.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from raycap.answers.template import Template, as_text
from raycap.captioning.prompts import prompts_of
from raycap.config import CaptionConfig, ContextOrigin, MissingContext
from raycap.errors import UNREADABLE, ErrorCode, ImageError
from raycap.images.exif import EXIF_FIELDS
from raycap.parsing import parse_json
from raycap.storage.address import Address, redact_text
from raycap.storage.members import member_of, span_of

FILE_NAME = "file_name"
FOLDER = "folder"
SIDECARS = "*"
"""Stands for all fields of an image's sidecars in its context; no field has this name."""
TEXT = "text"
"""The field with the whole text of a `.txt` sidecar."""
OF_IMAGE = (FILE_NAME, FOLDER, *EXIF_FIELDS)
"""Fields that every image may have, wherever it comes from."""
SIDECAR_SUFFIXES = (".json", ".txt")

_DIGEST_BYTES = 8
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The fields that a run takes from its source, besides those of the images themselves."""

    names: tuple[str, ...]
    origin: Literal["auto", ContextOrigin]
    max_chars: int

    def encode(self, row: Mapping[str, Any]) -> str:
        """Return the wanted values of a row as the manifest holds them: those it lacks are null."""
        found = texts({name: row.get(name) for name in self.names}, self.max_chars)
        return encode({**dict.fromkeys(self.names), **found})


def texts(values: Mapping[str, Any], max_chars: int) -> dict[str, str]:
    """Return values as text, without those that are missing and signatures of addresses."""
    found = {name: as_text(value, max_chars) for name, value in values.items()}
    return {name: redact_text(text) for name, text in found.items() if text is not None}


def encode(context: Mapping[str, Any]) -> str:
    """Return a context as the manifest holds it: equal ones are equal text."""
    return _ENCODER.encode(context)


def encode_sidecars(etags: Mapping[str, str]) -> str:
    """Return the context of an image with sidecars: their ETags by name."""
    return encode({SIDECARS: etags})


def _decode(context: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if context is None else parse_json(context)
    return found


def has_changed(before: str | None, now: str | None) -> bool:
    """Whether a field that both contexts of an image have has another value."""
    old, new = _decode(before), _decode(now)
    return any(old[name] != new[name] for name in old.keys() & new.keys())


def digests_of(context: str | None) -> str | None:
    """Return a digest per field of a context, as the captions row records it."""
    if context is None:
        return None
    return encode(_digests(context))


def _digests(context: str | None) -> dict[str, str]:
    return {
        name: blake2b(encode(value).encode(), digest_size=_DIGEST_BYTES).hexdigest()
        for name, value in _decode(context).items()
        if value is not None
    }


def stale_fields(context: str | None, recorded: str | None) -> set[str]:
    """Return the fields of a context whose values are not those that a captions row records."""
    asked = _decode(recorded)
    digests = _digests(context)
    return {name for name in _decode(context) if digests.get(name) != asked.get(name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The prompts of a run as templates, and the fields that it keeps."""

    templates: tuple[Template, ...]
    """By the index of the prompt."""
    keep: tuple[str, ...]
    """Fields to write to the captions parts."""
    origin: ContextOrigin | None
    """Where fields come from; None if all are those of the images themselves."""
    missing: MissingContext
    max_chars: int

    @classmethod
    def of(cls, config: CaptionConfig) -> "Context | None":
        """Return the context that settled settings ask for; None if prompts are plain text."""
        source = config.source
        if source.context == "off":
            return None
        return cls(
            templates=tuple(Template.parse(prompt.text) for prompt in prompts_of(config)),
            keep=source.keep_columns,
            origin=None if source.context == "auto" else source.context,
            missing=source.missing_context,
            max_chars=source.max_context_chars,
        )

    @property
    def has_fields(self) -> bool:
        """Whether a prompt has a field."""
        return any(template.fields for template in self.templates)

    def open_prompts(self, stale: Collection[str]) -> list[int] | None:
        """Return the prompts to ask again where fields have other values; None for all of them.

        With one prompt that is always it: the second model of a cascade may have the field.
        """
        if stale and (len(self.templates) == 1 or self._read_of(self.keep) & set(stale)):
            return None
        fields = [self._read_of(template.fields) for template in self.templates]
        return [index for index, of_prompt in enumerate(fields) if of_prompt & set(stale)]

    def _read_of(self, names: Collection[str]) -> set[str]:
        """Return what a context holds of some fields."""
        beside = set(names) - set(OF_IMAGE)
        return {SIDECARS} if beside and self.origin == "sidecars" else beside

    def beside(
        self, context: str | None, uri: str, read: Callable[[str, int], bytes]
    ) -> dict[str, str]:
        """Return the fields of an image that come from elsewhere.

        Args:
            context: Of its manifest row.
            uri: Its address.
            read: Reads at most so many bytes of an address, and one more.

        Raises:
            ImageError: a sidecar cannot be read; `no_context` if it is not as it should be.
        """
        if self.origin != "sidecars":
            values = _decode(context).items()
            return {name: value for name, value in values if value is not None}
        used = {*self.keep, *(name for template in self.templates for name in template.fields)}
        found: dict[str, Any] = {}
        for name, sidecar in sidecar_uris(context, uri).items():
            try:
                data = read(sidecar, MAX_SIDECAR_BYTES)
            except UNREADABLE as error:
                raise ImageError.of(error) from error
            found |= fields_of_sidecar(name, data)
        return texts({name: found[name] for name in found.keys() & used}, self.max_chars)

    def questions(
        self, prompts: Sequence[int] | None, values: Mapping[str, str]
    ) -> list[str] | None:
        """Return the complete prompts to ask of an image; None if no prompt has a field.

        Args:
            prompts: Their indices; None for all.
            values: Of the image's fields.

        Raises:
            ImageError: `no_context`.
        """
        if not self.has_fields:
            return None
        asked = range(len(self.templates)) if prompts is None else prompts
        return [self.templates[index].fill(values, self.missing) for index in asked]

    def kept(self, values: Mapping[str, str]) -> list[str | None]:
        """Return the values to keep, in the order of `keep`."""
        return [values.get(name) for name in self.keep]


def sidecar_uris(context: str | None, uri: str) -> dict[str, str]:
    """Return the addresses of an image's sidecars by name.

    JSON comes first: the text of a .txt precedes a field of that name.

    Args:
        context: Of its manifest row.
        uri: Its address.
    """
    versions: dict[str, str] = _decode(context).get(SIDECARS, {})
    if (member := member_of(uri)) is not None:  # the version says where in the tar it is
        return {name: member.tar + span_of(versions[name]) for name in sorted(versions)}
    folder = uri.rpartition("/")[0]
    return {name: f"{folder}/{name}" for name in sorted(versions)}


def own_values(image_id: str, uri: str, max_chars: int, *, is_below_source: bool) -> dict[str, str]:
    """Return the name and folder of an image.

    Args:
        image_id: Of the image.
        uri: Its address.
        max_chars: Longest value.
        is_below_source: Whether the id is its path in a folder, prefix or caption dataset; then
            its folder is the path there. Of other images it is one name.
    """
    path = PurePosixPath(image_id if is_below_source else _path_of(uri))
    folder = str(path.parent) if is_below_source else path.parent.name
    return texts({FILE_NAME: path.name, FOLDER: folder if folder != "." else None}, max_chars)


def _path_of(uri: str) -> str:
    address = Address.parse(uri)
    return unquote(urlsplit(uri).path) if address.is_web else address.path


MAX_SIDECAR_BYTES = 1_048_576
"""Largest sidecar."""


def fields_of_sidecar(name: str, data: bytes) -> dict[str, Any]:
    """Return the fields in a sidecar: those of JSON, or the whole text.

    Args:
        name: Its name or key.
        data: Its first MAX_SIDECAR_BYTES + 1 bytes.

    Raises:
        ImageError: `no_context`: it is too large, or cannot be parsed.
    """
    if len(data) > MAX_SIDECAR_BYTES:
        raise ImageError(ErrorCode.NO_CONTEXT, f"{name}: more than {MAX_SIDECAR_BYTES:,} bytes")
    if name.lower().endswith(".txt"):
        return {TEXT: data}
    try:
        fields = parse_json(data)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ImageError(ErrorCode.NO_CONTEXT, f"{name}: is not JSON: {reason}") from error
    if not isinstance(fields, dict):
        raise ImageError(ErrorCode.NO_CONTEXT, f"{name}: is not a JSON object")
    return fields
