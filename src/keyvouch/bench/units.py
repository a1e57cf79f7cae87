"""Numbers as people read them, with three significant digits and a unit, and lists."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Return a time such as "5.21 µs", "38.4 ms" or "2.00 s"."""
    if seconds < 0.9995e-3:  # noqa: PLR2004 - rounds to a millisecond
        return f"{_three_digits(seconds * 1e6)} µs"
    if seconds < 0.9995:  # noqa: PLR2004 - rounds to a second
        return f"{_three_digits(seconds * 1e3)} ms"
    return f"{_three_digits(seconds)} s"


def number(value: float) -> str:
    """Return a number with three significant digits, or all those before the decimal point: "0.521", "31,750"."""
    return _three_digits(value)


def size(count: int) -> str:
    """Return a number of bytes, such as "2.70 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{_three_digits(count / factor)} {unit}"
    return f"{count} bytes"


def percentage(part: float, form: str = ".0%") -> str:
    """Return a part of 1 as "16 %"; `form` is a format specification that ends in "%"."""
    return f"{part:{form}}".replace("%", " %")


def threads(count: int) -> str:
    """Return a number of threads, such as "1 thread"."""
    return "1 thread" if count == 1 else f"{count} threads"


def listed(texts: Sequence[str]) -> str:
    """Return texts, at least one, as "a, b and c"."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def without_micro_sign(text: str) -> str:
    """Return a text with "us" for "µs"."""
    return text.replace("µs", "us")


def encodable(text: str, encoding: str | None) -> str:
    """Return a text with "us" for "µs" and "+-" for "±" if the encoding does not have these signs."""
    try:
        "µ±".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return without_micro_sign(text).replace(" ±", "+-")
    return text


def _three_digits(value: float) -> str:
    if value >= 99.95:  # noqa: PLR2004 - rounds to three digits before the decimal point
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"  # noqa: PLR2004 - as above
