"""Export to XMP sidecars, as programs for photographs read them; images are never written.

Source: XMP Specification Part 1 (ISO 16684-1) and Part 3; IPTC Photo Metadata Standard 2021.1 for
AltTextAccessibility and ExtDescrAccessibility.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from raycap.config import Existing, Naming
from raycap.errors import ConfigError
from raycap.exporting.beside import Style, Values, export_beside
from raycap.exporting.columns import Column
from raycap.exporting.jobs import Exporter, ExportJob
from raycap.exporting.values import texts_of
from raycap.results.captioning import ExportCounts, read_caption_run, run_setting
from raycap.schema import CAPTION

SUFFIX = ".xmp"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PREFIXES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
}
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"

Items = Callable[[Any, str | None], str]


@dataclass(frozen=True, slots=True)
class _Property:
    """A property of XMP."""

    prefix: str
    name: str
    items: Items

    @property
    def full_name(self) -> str:
        """Its name as the parser gives it."""
        return f"{_PREFIXES[self.prefix]} {self.name}"

    def as_xml(self, value: Any, language: str | None) -> str:
        tag = f"{self.prefix}:{self.name}"
        return f"   <{tag}>{self.items(value, language)}</{tag}>\n"


def _text(text: str) -> str:
    """Return a text as XML: characters that XML cannot express are replaced."""
    return escape(_ILLEGAL.sub(_REPLACEMENT, text), {"\r": "&#13;"})


def _alternatives(value: Any, language: str | None) -> str:
    """Return a text as language alternatives; its language is named if it is known."""
    text = _text("\n".join(texts_of(value)))
    languages = ["x-default", *([] if language is None else [language])]
    items = "".join(f"<rdf:li xml:lang={quoteattr(one)}>{text}</rdf:li>" for one in languages)
    return f"<rdf:Alt>{items}</rdf:Alt>"


def _bag(value: Any, language: str | None) -> str:
    """Return a list as unordered items; of a text, what is between its commas."""
    del language
    texts = (text.strip() for one in texts_of(value) for text in one.split(","))
    items = "".join(f"<rdf:li>{_text(text)}</rdf:li>" for text in texts if text)
    return f"<rdf:Bag>{items}</rdf:Bag>"


PROPERTIES = {
    "description": _Property("dc", "description", _alternatives),
    "alt_text": _Property("Iptc4xmpCore", "AltTextAccessibility", _alternatives),
    "extended_description": _Property("Iptc4xmpCore", "ExtDescrAccessibility", _alternatives),
    "title": _Property("dc", "title", _alternatives),
    "keywords": _Property("dc", "subject", _bag),
}
"""Properties by the names of the columns that become them."""

_DEFAULT = tuple(Column(name=name, path=(CAPTION,)) for name in ("description", "alt_text"))


def _export_xmp(job: ExportJob) -> ExportCounts:
    for column in job.rows.chosen or ():
        if column.name not in PROPERTIES:
            raise ConfigError(
                f"--columns: XMP has no property {column.name!r}; choose among "
                f"{', '.join(PROPERTIES)}, such as 'caption as description'",
                setting="columns",
            )
    run = read_caption_run(job.rows.store)
    language = run_setting(run, "config", "answers", "language")
    style = Style(
        suffix=SUFFIX,
        naming=job.naming or Naming.FULL,
        columns=_DEFAULT,
        render=partial(render, language=language),
        merge=partial(_merge, language=language),
    )
    return export_beside(job, style)


def render(values: Values, language: str | None = None) -> bytes | None:
    """Return an XMP file; None if there is nothing to say.

    Args:
        values: Plain values by the names of PROPERTIES.
        language: Of the texts, such as `en`; None if it is unknown.
    """
    given = {name: value for name, value in values.items() if texts_of(value)}
    if not given:
        return None
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="raycap">\n'
        f' <rdf:RDF xmlns:rdf="{_RDF}">\n'
        f"{_description(given, language)}"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
    ).encode()


def _description(values: Values, language: str | None, about: str = "") -> str:
    properties = {name: PROPERTIES[name] for name in values}
    prefixes = dict.fromkeys(one.prefix for one in properties.values())
    spaces = "".join(f' xmlns:{one}="{_PREFIXES[one]}"' for one in prefixes)
    inner = "".join(one.as_xml(values[name], language) for name, one in properties.items())
    return (
        f'  <rdf:Description xmlns:rdf="{_RDF}" rdf:about={quoteattr(about)}{spaces}>\n'
        f"{inner}  </rdf:Description>\n"
    )


def _merge(
    standing: bytes, values: Values, existing: Existing, *, language: str | None
) -> bytes | None:
    """Add the properties that an XMP file lacks; the rest of it stays byte by byte."""
    del existing  # only IMPORT comes here
    found = _Scanner.scan(standing)
    if found is None:
        return None
    missing = {
        name: value
        for name, value in values.items()
        if texts_of(value) and PROPERTIES[name].full_name not in found.properties
    }
    if not missing:
        return None
    block = _description(missing, language, found.about or "").encode()
    return standing[: found.end] + block + standing[found.end :]


class _Scanner:
    """What an XMP file has, and where something can be added."""

    def __init__(self) -> None:
        self.properties: set[str] = set()
        self.about: str | None = None
        self.end = 0
        """Where the closing tag of its RDF begins, in bytes; 0 if there is none."""
        self._path: list[str] = []
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._stop
        self._parser.XmlDeclHandler = self._declare
        self._parser.EntityDeclHandler = self._refuse

    @classmethod
    def scan(cls, data: bytes) -> "_Scanner | None":
        """Read a file; None if it is not XMP that can be added to, such as one in UTF-16."""
        scanner = cls()
        try:
            scanner._parser.Parse(data, True)
        except (expat.ExpatError, ValueError):
            return None
        return scanner if data[scanner.end : scanner.end + 2] == b"</" else None

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if self._path[-2:] == [f"{_RDF} RDF", f"{_RDF} Description"]:
            self.properties.update(attributes)
            about = attributes.get(f"{_RDF} about", attributes.get("about"))
            self.about = about if self.about is None else self.about
        elif self._path[-3:-1] == [f"{_RDF} RDF", f"{_RDF} Description"]:
            self.properties.add(name)

    def _stop(self, name: str) -> None:
        self._path.pop()
        if name == f"{_RDF} RDF":
            self.end = self._parser.CurrentByteIndex

    def _declare(self, version: str, encoding: str | None, standalone: int) -> None:
        del version, standalone
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise ValueError(encoding)

    def _refuse(self, *entity: Any) -> None:
        raise ValueError(entity)  # XMP has none; nested ones could expand without bound


EXPORTER = Exporter(
    write=_export_xmp,
    existing=frozenset(set(Existing) - {Existing.APPEND}),
    options=frozenset({"naming", "columns"}),
)
