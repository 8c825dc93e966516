"""Numbers as the page shows them."""

import pytest

from raycap.reporting.numbers import (
    brief,
    byte_count,
    decimal,
    integer,
    moment,
    percent,
    plural,
    probability,
    signed,
)
from raycap.text import amount


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.41234, 3, "0.412"),
        (-9.64, 1, "\N{MINUS SIGN}9.6"),
        (-0.0004, 3, "0.000"),
        (1234.5, 1, "1,234.5"),
        (None, 3, "\N{EN DASH}"),
        (float("nan"), 3, "\N{EN DASH}"),
        (float("-inf"), 3, "\N{EN DASH}"),
    ],
)
def test_decimals_are_aligned_and_never_nan(value: float | None, digits: int, shown: str) -> None:
    assert decimal(value, digits) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0312, "+0.031"), (-0.0312, "\N{MINUS SIGN}0.031"), (0.0, "0.000"), (-0.0001, "0.000")],
)
def test_signs_are_shown_but_not_of_nothing(value: float, shown: str) -> None:
    assert signed(value) == shown


def test_counts_shares_and_sizes_are_readable() -> None:
    assert (integer(1234567), integer(-3)) == ("1,234,567", "\N{MINUS SIGN}3")
    assert [percent(share) for share in (0.0, 0.00001, 0.0123, 1.0)] == [
        "0.0 %",
        "<0.1 %",
        "1.2 %",
        "100.0 %",
    ]
    assert [byte_count(n) for n in (0, 999, 1234567, 3 * 10**15)] == [
        "0 bytes",
        "999 bytes",
        "1.2 MB",
        "3.0 PB",
    ]


def test_p_values_claim_no_more_than_the_resamples_can_tell() -> None:
    assert probability(0.0, 1000) == "<0.002"
    assert probability(0.034, 1000) == "0.034"
    assert probability(1.0, 0) == "1.000"


def test_times_are_told_in_utc_and_other_texts_as_they_stand() -> None:
    assert moment("2026-11-24T08:05:00+01:00") == "24 Nov 2026, 07:05 UTC"
    assert moment("yesterday") == "yesterday"
    assert moment("") == ""


def test_hours_and_money_are_not_rounded_away() -> None:
    told = [amount(value) for value in (0.0, 0.00123, 0.0996, 0.1, 1234.567)]
    assert told == ["0.00", "0.0012", "0.1", "0.10", "1,234.57"]


def test_short_times_and_counts_have_their_units() -> None:
    assert [brief(seconds) for seconds in (0.0, 0.0123, 1.5)] == ["0.0 ms", "12.3 ms", "1.50 s"]
    assert [plural(count, "core") for count in (0, 1, 2000)] == ["0 cores", "1 core", "2,000 cores"]
