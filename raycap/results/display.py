"""How results show themselves: as text on a terminal, as HTML in a notebook.

What they say is in `results/shown/`. The HTML is small and complete in itself: no script, no style
sheet, every text escaped; its colours are those of the notebook.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from itertools import chain

Rows = list[tuple[str, str]]
"""Names and values."""

# Leading spaces are those of rows that belong to the one above.
_LEFT = ' style="text-align:left;white-space:pre-wrap"'
_GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of texts."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a result says of itself."""

    title: str
    rows: Rows
    tables: Sequence[Table] = ()
    drawing: str = ""
    """An SVG element; only in notebooks."""

    def text(self) -> str:
        """Return it as lines of text."""
        blocks = [[self.title], *(_lines([table.headings, *table.rows]) for table in self.tables)]
        return "\n".join(chain(*blocks, _lines(self.rows)))

    def html(self) -> str:
        """Return it as HTML."""
        tables = "".join(_html(table.rows, table.headings) for table in self.tables)
        title = f"<strong>{escape(self.title)}</strong>"
        return f"<div>{title}{tables}{self.drawing}{_html(self.rows)}</div>"


class Displayed:
    """A result that shows itself."""

    __slots__ = ()

    def shown(self) -> Shown:
        """Return what it says of itself."""
        # At first use: the registry knows the types of all results, which are derived from this.
        found: Shown = import_module("raycap.results.shown.registry").describe(self)
        return found

    def __repr__(self) -> str:
        return self.shown().text()

    def _repr_html_(self) -> str:
        return self.shown().html()


def _lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out rows in columns."""
    told = [[" ".join(cell.splitlines()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*told, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in told
    ]


def _html(rows: Iterable[Sequence[str]], headings: Sequence[str] = ()) -> str:
    heads = "".join(f"<th{_LEFT}>{escape(heading)}</th>" for heading in headings)
    head = f"<thead><tr>{heads}</tr></thead>" if headings else ""
    body = "".join(
        f"<tr>{''.join(f'<td{_LEFT}>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"
