"""The page: sections in a template, with its style sheet and script, and no external resources."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raycap.reporting import numbers
from raycap.reporting.blocks import Section
from raycap.reporting.evaluation import WHISKER_PX, WHISKER_ROW_PX

_NUM_COLOURS = 6  # for systems, in the style sheet


def render(sections: Sequence[Section]) -> str:
    """Render the page. The same sections give the same text."""
    style, script = _asset("page.css"), _asset("page.js")
    return _ENVIRONMENT.get_template("page.html.jinja").render(
        title=" \N{MIDDLE DOT} ".join(section.title for section in sections),
        sections=sections,
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """Return a policy that allows only the page's own style sheet, script and pictures."""
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> Markup:
    """Read a file of the package that becomes part of the page unchanged."""
    source, _, _ = _LOADER.get_source(_ENVIRONMENT, name)
    return Markup(source)  # noqa: S704  from the package, without any user input


def _colour(system: int) -> str:
    """Return the class that gives a system its colour."""
    return f"system-{system % _NUM_COLOURS}"


_LOADER = PackageLoader("raycap.reporting")
_ENVIRONMENT = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "colour": _colour,
    "integer": numbers.integer,
    "percent": numbers.percent,
}
_ENVIRONMENT.globals |= {"WHISKER_PX": WHISKER_PX, "WHISKER_ROW_PX": WHISKER_ROW_PX}
