"""Matplotlib figures as SVG elements of a page: no inline styles, colours by CSS class, unique ids.

The page's Content-Security-Policy allows no inline style, and its colours follow the reader's
light or dark scheme. So every style becomes an attribute, and every colour of `INKS` a class, such
as `fill-system`, which gets its colour from the style sheet of the page.
"""

import re
from collections.abc import Iterator
from io import BytesIO
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

NUM_LINE_INKS = 6
"""Number of inks `line-0` to `line-5`, to distinguish curves."""
NUM_SHADES = 7
"""Number of inks `shade-0` (pale) to `shade-6` (deep), for ordered values."""

INKS = {
    "text": "#000001",
    "ink": "#000005",
    "grid": "#000002",
    "people": "#000003",
    "system": "#000004",
    **{f"line-{number}": f"#00001{number}" for number in range(NUM_LINE_INKS)},
    **{f"shade-{number}": f"#00002{number}" for number in range(NUM_SHADES)},
}
"""Placeholder colours of figures, each replaced by a class of the style sheet."""

POINTS_PER_INCH = 72

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_CLASSES = {colour: name for name, colour in INKS.items()}
_FONT_SIZE = re.compile(r"([\d.]+)px")
_BOLD = re.compile(r"\b(?:bold|700)\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_EDGE_PX = 6
_FONT_SLACK = 1.3
_KEPT = {"fill", "fill-opacity", "opacity", "stroke", "stroke-opacity", "stroke-width"} | {
    "stroke-dasharray",
    "stroke-linecap",
    "stroke-linejoin",
    "font-weight",
    "text-anchor",
}

ElementTree.register_namespace("", _SVG[1:-1])


def inline_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Draw a figure as an SVG element. The same figure gives the same text.

    Args:
        figure: what to draw; its font must have all characters of its texts.
        name: prefix of its ids; unique within a page.
        title: what a screen reader says first; any text.
        description: what the figure shows, in words; any text.
    """
    root = ElementTree.fromstring(_drawn(figure))  # noqa: S314  as matplotlib has just written it
    for element in list(root.iter()):
        for child in [child for child in element if _is_dropped(child)]:
            element.remove(child)
    _rename(root, name)
    for element in root.iter():
        _unstyle(element)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    _say(root, f"{name}-description", "desc", description)
    _say(root, f"{name}-title", "title", title)
    # The serialiser has escaped all texts and attributes.
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704


def _make_room(figure: Figure) -> None:
    """Move vertical axes to the right if their numbers would begin left of the drawing."""
    for axes in figure.axes:
        box = axes.yaxis.get_tightbbox()
        if box is None or box.x0 >= _EDGE_PX:
            continue
        # Measured in matplotlib's font: that of the page may be wider.
        missing = _FONT_SLACK * (_EDGE_PX - box.x0) / figure.bbox.width
        place = axes.get_position()
        left = place.x0 + missing
        axes.set_position((left, place.y0, place.width - missing, place.height))


def _drawn(figure: Figure) -> bytes:
    sink = BytesIO()
    _make_room(figure)
    # Texts remain texts: smaller than outlines, and in the font of the page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "raycap"}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    return sink.getvalue()


def _is_dropped(element: ElementTree.Element) -> bool:
    return element.tag == f"{_SVG}style" or element.tag.endswith("metadata")


def _rename(root: ElementTree.Element, name: str) -> None:
    """Keep the ids that something refers to, with the prefix of the figure."""
    for element in root.iter():
        if link := element.attrib.pop(_LINK, None):
            element.set("href", link)  # HTML accepts this name, but no XML prefix
    used = {found for value in _values(root) for found in _REFERENCE.findall(value)}
    used |= {element.attrib["href"][1:] for element in root.iter() if "href" in element.attrib}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        if "href" in element.attrib:
            element.set("href", f"#{name}-{element.attrib['href'][1:]}")
        for key, value in element.attrib.items():
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def _values(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        yield from element.attrib.values()


def _unstyle(element: ElementTree.Element) -> None:
    """Replace `style` by attributes and classes."""
    classes = []
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("fill", "stroke") and value in _CLASSES:
            classes.append(f"{key}-{_CLASSES[value]}")
        elif key in _KEPT:
            element.set(key, value)
        elif key in ("font", "font-size") and (size := _FONT_SIZE.search(value)):
            element.set("font-size", size[1])
            if _BOLD.search(value):
                element.set("font-weight", "bold")
    if classes:
        element.set("class", " ".join(classes))


def _say(root: ElementTree.Element, own: str, tag: str, text: str) -> None:
    element = ElementTree.Element(f"{_SVG}{tag}", {"id": own})
    element.text = text
    root.insert(0, element)
