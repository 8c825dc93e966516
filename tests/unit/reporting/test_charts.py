"""Curves over epochs, and marks in drawings."""

import re
from xml.etree import ElementTree

import pytest

from raycap.reporting.charts import Curve, epoch_chart, short
from raycap.reporting.svg import INKS

SVG = "{http://www.w3.org/2000/svg}"


def curve(num_epochs: int = 5, **changes: object) -> Curve:
    epochs = list(range(1, num_epochs + 1))
    content = {"label": "a", "ink": "line-0", "epochs": epochs, "values": [1 / n for n in epochs]}
    return Curve(**(content | changes))  # type: ignore[arg-type]


def marks(chart_svg: str) -> int:
    """How often marks, which stand in `defs` once, are used."""
    return len(list(ElementTree.fromstring(chart_svg).iter(f"{SVG}use")))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2.5, "2.5"),
        (-0.25, "\N{MINUS SIGN}0.25"),
        (0.0005, "0.0005"),
        (0.00045, "4.5e\N{MINUS SIGN}4"),
        (1e-5, "1e\N{MINUS SIGN}5"),
        (1200.0, "1200"),
    ],
)
def test_numbers_of_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_marks_refer_to_what_the_drawing_holds_itself() -> None:
    chart = epoch_chart("one", "Loss", "falls", [curve(ringed=2)])
    root = ElementTree.fromstring(chart.plot.svg)
    ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    links = {element.attrib["href"] for element in root.iter(f"{SVG}use")}
    assert links
    assert {link.removeprefix("#") for link in links} <= ids
    assert all(name.startswith("one-") for name in ids)
    assert "xlink" not in chart.plot.svg


def test_an_epoch_is_ringed() -> None:
    plain, ringed = (
        epoch_chart("a", "Loss", "falls", [curve(ringed=epoch)]) for epoch in (None, 2)
    )
    # Beside those of the curve and of the axes' ticks.
    assert marks(ringed.plot.svg) == marks(plain.plot.svg) + 1
    assert marks(epoch_chart("a", "Loss", "", [curve(ringed=99)]).plot.svg) == marks(plain.plot.svg)


def test_dots_are_left_out_where_there_are_too_many() -> None:
    few = epoch_chart("a", "Loss", "falls", [curve(30)]).plot.svg
    many = epoch_chart("a", "Loss", "falls", [curve(300)]).plot.svg
    assert marks(few) - marks(many) >= 30
    assert len(many) < 40_000


@pytest.mark.parametrize(("since", "side"), [(2, "start"), (9, "end")])
def test_the_label_of_overfitting_stays_within_the_drawing(since: int, side: str) -> None:
    svg = epoch_chart("a", "Loss", "falls", [curve(10)], shaded_from=since).plot.svg
    label = re.search(rf"<text([^>]*)>overfitting from epoch {since}<", svg)
    assert label
    assert ("text-anchor: end" in label[1] or 'text-anchor="end"' in label[1]) == (side == "end")


def test_values_that_are_no_numbers_are_left_out() -> None:
    values = [1.0, float("nan"), float("inf"), 2.0, 3.0]
    svg = epoch_chart("a", "Loss", "odd", [curve(values=values)]).plot.svg
    assert "nan" not in svg.lower()
    assert "inf" not in svg.lower()
    nothing = epoch_chart("a", "Loss", "odd", [curve(1, values=[float("nan")])])
    assert "<svg" in nothing.plot.svg
    assert "<svg" in epoch_chart("a", "Loss", "none", [curve(0)]).plot.svg


def test_one_curve_alone_needs_no_key() -> None:
    assert epoch_chart("a", "Loss", "falls", [curve()]).key == ()
    assert len(epoch_chart("a", "Loss", "falls", [curve(), curve(label="b")]).key) == 2


def test_no_two_inks_are_one() -> None:
    assert len(set(INKS.values())) == len(INKS)


@pytest.mark.parametrize("values", [[0.00222, 0.00216], [8.94e-10, 8.82e-10], [-1e5, 1e5]])
def test_numbers_of_the_vertical_axis_are_within_the_drawing(values: list[float]) -> None:
    svg = epoch_chart("a", "CIDEr-D", "falls", [curve(2, values=values)]).plot.svg
    labels = re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"[^>]*>([^<]+)<', svg)
    assert labels
    for x, text in labels:
        assert float(x) >= 7 * len(text), "the width of a digit, in points"
