"""A page of a report taken apart, to look at its tags and at its text."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</script></style><script>alert(1)</script>\"><img src=x onerror=f()>'`{{77*7777}}&lt;"
VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """A page taken apart: tags with their attributes, and the text outside of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: list[tuple[str, str]] = []
        """Content of style and script elements."""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.raw.append((self._open[-1], data))
        else:
            self.texts.append(data)

    def attributes(self, tag: str) -> Iterator[dict[str, str | None]]:
        """Give the attributes of each element of a kind."""
        return (attributes for name, attributes in self.tags if name == tag)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return re.sub(r"\s+", " ", " ".join(self.texts))


def assert_nothing_is_markup(path: Path, num_galleries: int = 1) -> None:
    """Make sure that HOSTILE, which a page's input was full of, came through as text alone."""
    page = Page(path)
    scripts = list(page.attributes("script"))
    expected = [*["application/json"] * num_galleries, None]
    assert [script.get("type") for script in scripts] == expected
    assert len(list(page.attributes("style"))) == 1
    assert not any(attributes.get("src") == "x" for attributes in page.attributes("img"))
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert HOSTILE in page.text
    assert str(77 * 7777) not in "".join(page.texts)


def drawings(folder: Path) -> dict[str, ElementTree.Element]:
    """Return the plots of `page.html`, whose report has one section, by their names there."""
    text = (folder / "page.html").read_text(encoding="utf-8")
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    names = [svg.attrib["aria-labelledby"].split("-plot-title")[0] for svg in found]
    return {name.removeprefix("part-1-"): svg for name, svg in zip(names, found, strict=True)}


def told(svg: ElementTree.Element) -> str:
    """Return the description of a plot, which screen readers read."""
    return svg.findtext(f"{SVG}desc") or ""
