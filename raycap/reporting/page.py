"""The page: sections in a template, with its style sheet and script, and nothing from outside."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raycap.reporting import numbers
from raycap.reporting.calibration import CalibrationSection
from raycap.reporting.captions import CaptionsSection
from raycap.reporting.comparison import ComparisonSection
from raycap.reporting.dataset import DatasetSection
from raycap.reporting.evaluation import EvaluationSection
from raycap.reporting.preflight import PreflightSection
from raycap.reporting.score_table import WHISKER_PX, WHISKER_ROW_PX
from raycap.reporting.search import SearchSection
from raycap.reporting.study import StudySection
from raycap.reporting.training import TrainingSection

Section = (
    CalibrationSection
    | CaptionsSection
    | ComparisonSection
    | DatasetSection
    | EvaluationSection
    | PreflightSection
    | SearchSection
    | StudySection
    | TrainingSection
)

_NUM_COLOURS = 6  # of the style sheet, for systems


def render(sections: Sequence[Section]) -> str:
    """Write the page. The same sections give the same text."""
    style, script = _asset("page.css"), _asset("page.js")
    return _ENVIRONMENT.get_template("page.html.jinja").render(
        title=" \N{MIDDLE DOT} ".join(section.title for section in sections),
        sections=sections,
        style=style,
        script=script,
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """Allow the page's own style sheet, script and pictures, and nothing else."""
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
    """Read a file of the package that goes into the page as it is."""
    source, _, _ = _LOADER.get_source(_ENVIRONMENT, name)
    return Markup(source)  # noqa: S704  of the package, nothing of a user is in it


def _colour(system: int) -> str:
    """Name the class that gives a system its colour."""
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
