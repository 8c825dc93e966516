"""Plots: no inline styles, deterministic, described in words."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from raycap.reporting.plots import Histogram, gap_plot, length_plot, throughput_plot

SVG = "{http://www.w3.org/2000/svg}"
SHORT = Histogram(counts={6: 10, 7: 80, 8: 9, 60: 1}, mean=7.6)
PEOPLE = Histogram(counts={15: 30, 17: 50, 19: 20}, mean=16.9)


def test_the_axis_ends_where_nearly_all_captions_do() -> None:
    counts = {7: 1000, 8: 995, 400: 5}
    assert Histogram(counts=counts, mean=8.0).longest == 8
    assert Histogram(counts={}, mean=0.0).longest == 0


def test_captions_beyond_the_axis_are_counted() -> None:
    assert gap_plot("a", "s", SHORT, PEOPLE, longest=20).num_beyond == 1
    assert length_plot("a", "words", PEOPLE).num_beyond == 0


def test_shares_are_per_cent_of_all_captions() -> None:
    shares = SHORT.shares(10)
    assert len(shares) == 11
    assert (shares[7], shares[9], shares.sum()) == (80, 0, 99)


def test_a_plot_has_no_style_and_no_colour_of_its_own() -> None:
    svg = str(gap_plot("a", "blip", SHORT, PEOPLE, longest=20).svg)
    assert "style" not in svg
    assert not re.search(r"(fill|stroke)=.#(?!f{6})", svg)
    for name in ("fill-system", "stroke-system", "fill-people", "stroke-people", "fill-text"):
        assert name in svg


def test_the_same_plot_is_the_same_text() -> None:
    plots = [gap_plot("a", "blip", SHORT, PEOPLE, longest=20).svg for _ in range(2)]
    assert plots[0] == plots[1]


def test_ids_of_two_plots_of_a_page_differ() -> None:
    first, second = (
        set(re.findall(r'\bid="([^"]+)"', str(gap_plot(name, "s", SHORT, PEOPLE, longest=20).svg)))
        for name in ("one", "two")
    )
    assert first
    assert not first & second
    root = ElementTree.fromstring(gap_plot("one", "s", SHORT, PEOPLE, longest=20).svg)
    used = re.findall(r"url\(#([^)]+)\)", ElementTree.tostring(root, encoding="unicode"))
    assert set(used) <= first


def test_a_plot_is_told_in_words_whatever_the_system_is_called() -> None:
    name = '</desc><script>alert(1)</script> $x_$ "é\N{SNOWMAN}'
    root = ElementTree.fromstring(gap_plot("a", name, SHORT, PEOPLE, longest=20).svg)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert name in (title.text or "")
    assert description is not None
    for shown in (name, "7.6", "16.9", "\N{MINUS SIGN}9.3"):
        assert shown in (description.text or "")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "a-title a-description"


def test_equal_and_extreme_lengths_are_drawn_too() -> None:
    one = Histogram(counts={1: 1}, mean=1.0)
    assert "<svg" in gap_plot("a", "s", one, one, longest=one.longest).svg
    long = Histogram(counts=dict.fromkeys(range(3000), 1), mean=1500.0)
    assert len(length_plot("a", "words", long).svg) < 200_000
    assert "<svg" in length_plot("a", "words", Histogram(counts={}, mean=0.0)).svg


def test_throughput_has_a_fitting_unit() -> None:
    start = datetime(2026, 11, 24, tzinfo=UTC)
    for seconds, unit in ((90, "seconds"), (900, "minutes"), (90_000, "hours")):
        end = start + timedelta(seconds=seconds)
        plot = throughput_plot("a", [(start.isoformat(), 100), (end.isoformat(), 320)])
        assert plot is not None
        assert f"{unit} since the first part" in plot.svg
        assert "420 images" in plot.svg


def test_parts_are_laid_out_over_the_time_of_their_commits() -> None:
    commits = [
        ("2026-11-24T07:03:00+00:00", 20),
        ("2026-11-24T07:00:00+00:00", 100),
        ("2026-11-24T08:05:00+01:00", 50),
    ]
    plot = throughput_plot("a", commits)
    assert plot is not None
    assert "170 images" in plot.svg
    assert "5.0 minutes" in plot.svg


def test_no_throughput_is_shown_where_the_times_are_not_all_known() -> None:
    known = ("2026-11-24T07:00:00+00:00", 10)
    for commits in ([], [known], [known, known], [known, ("", 10)]):
        assert throughput_plot("a", commits) is None
