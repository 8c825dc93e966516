"""Formats of numbers, times and sizes."""

import math
from datetime import UTC, datetime

NONE = "\N{EN DASH}"
"""Shown in place of a missing number."""

_MINUS = "\N{MINUS SIGN}"
# Independent of the locale, unlike strftime.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def integer(value: int) -> str:
    """Format 12345 as `12,345`."""
    return f"{value:,}".replace("-", _MINUS)


def decimal(value: float | None, digits: int = 3) -> str:
    """Format a number with a fixed number of decimals; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.{digits}f}"
    # A rounded -0.0004 has no sign.
    text = text.lstrip("-") if float(text.replace(",", "")) == 0 else text
    return text.replace("-", _MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Format a number with its sign; 0 has none."""
    text = decimal(value, digits)
    is_plain = text == NONE or text.startswith(_MINUS) or not text.strip("0.")
    return text if is_plain else f"+{text}"


def percent(share: float) -> str:
    """Format 0.0123 as `1.2 %`, and 0.0001 as `<0.1 %`."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def byte_count(num_bytes: int) -> str:
    """Format 1234567 as `1.2 MB`."""
    power = min((len(str(num_bytes)) - 1) // 3, len(_UNITS) - 1)
    size = num_bytes / 1000**power
    return f"{size:,.{1 if power else 0}f} {_UNITS[power]}"


def brief(seconds: float) -> str:
    """Format 0.0123 as `12.3 ms`, and 1.5 as `1.50 s`."""
    return f"{decimal(seconds, 2)} s" if seconds >= 1 else f"{decimal(1000 * seconds, 1)} ms"


def plural(count: int, thing: str) -> str:
    """Format 1 as `1 image`, 2 as `2 images`."""
    return f"{integer(count)} {thing}{'' if count == 1 else 's'}"


def probability(value: float, num_resamples: int) -> str:
    """Format a p-value; one below the resolution of the resamples as less than that."""
    least = 2 / num_resamples if num_resamples else 0.0
    return f"<{least:.2g}" if value < least else f"{value:.3f}"


def moment(time: str) -> str:
    """Format a time in ISO 8601 as `24 Nov 2026, 07:00 UTC`; other texts are unchanged."""
    try:
        at = datetime.fromisoformat(time).astimezone(UTC)
    except ValueError:
        return time
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"
