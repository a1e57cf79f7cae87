"""What a benchmark returns: goals next to what was measured, and tables in Markdown.

A goal is missed if the measured value misses it, even if the confidence interval reaches the limit.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from keyvouch.bench import Interval, Run, Samples
from keyvouch.bench.intervals import median, ratio_of_pairs

SECONDS, QUICK_SECONDS = 2.0, 0.3
"""Duration of each measurement; the short one only shows that everything works."""
_TOO_FEW, _EXACT = "too few samples", "exact"
_NUMBER = re.compile(rf"-?[0-9]|[<>]=|$|{_TOO_FEW}|{_EXACT}")


@dataclass(frozen=True)
class Goal:
    """A figure that was promised, and what was measured."""

    name: str
    limit: float
    measured: Interval
    """In the same unit as the limit."""
    at_least: bool = False
    """True if the limit is the smallest acceptable value, otherwise it is the largest."""
    unit: str = ""

    @property
    def reached(self) -> bool:
        """True if the measured value is within the limit."""
        value = self.measured.value
        return value >= self.limit if self.at_least else value <= self.limit

    def document(self) -> dict[str, object]:
        """Return it for the JSON file."""
        return {**asdict(self), "reached": self.reached}


@dataclass(frozen=True)
class Part:
    """The results of one subject."""

    title: str
    text: str
    """Markdown, without a title."""
    goals: Sequence[Goal] = ()
    documents: Mapping[str, object] = field(default_factory=dict)
    """All measurements, for the JSON file."""
    plots: Mapping[str, Run] = field(default_factory=dict)
    """What to draw, by the name of the file to which the text refers."""


def main(measure: Callable[[float], Part]) -> None:
    """Measure one subject, and print its part of the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="measure so shortly that the figures mean little")
    part = measure(QUICK_SECONDS if parser.parse_args().quick else SECONDS)
    print(f"## {part.title}\n\n{part.text}\n\n{goal_table(part.goals)}")


def relative_time(own: Samples, other: Samples) -> Interval:
    """Return how many times as long as the other one it takes, by the medians of the rounds."""
    return ratio_of_pairs(own.rounds, other.rounds)


def relative_speed(own: Samples, other: Samples) -> Interval:
    """Return how many times as many operations per second as the other one it performs."""
    return ratio_of_pairs(own.rates, other.rates)


def difference(own: Samples, other: Samples, factor: float) -> Interval:
    """Return how much longer than the other one it takes, in seconds times `factor`."""
    return median([(each - base) * factor for each, base in zip(own.rounds, other.rounds, strict=False)])


def exactly(value: float) -> Interval:
    """Return a value that was counted, and is not the result of chance."""
    return Interval(value, value, value)


def scaled(values: Sequence[float], factor: float) -> Interval:
    """Return the median of these values, each multiplied."""
    return median([each * factor for each in values])


def goal_table(goals: Sequence[Goal]) -> str:
    """Return the goals as a table, or an empty string if there are none."""
    if not goals:
        return ""
    return table(
        ["goal", "limit", "measured", "99 % confidence", ""],
        [
            [
                each.name,
                f"{'>=' if each.at_least else '<='} {each.limit:g} {each.unit}".rstrip(),
                f"{_shown(each.measured)} {each.unit}".rstrip(),
                interval(each.measured, 4),
                "reached" if each.reached else "**MISSED**",
            ]
            for each in goals
        ],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns of numbers are aligned to the right, except the first one."""
    body = [list(each) for each in rows]
    _, *others = zip(*body, strict=True)
    rule = ["---", *("---:" if all(_NUMBER.match(cell) for cell in column) else "---" for column in others)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), rule, *body])


def figure(value: float, digits: int = 3) -> str:
    """Return a number with this many significant digits, or all digits before the point."""
    if value == 0:
        return "0"
    decimals = digits - 1 - int(f"{value:e}".rpartition("e")[2])
    return f"{value:,.{max(0, decimals)}f}"


def interval(measured: Interval, digits: int = 3) -> str:
    """Return the confidence interval as text."""
    if measured.low is None or measured.high is None:
        return _TOO_FEW
    if measured.low == measured.high:
        return _EXACT
    return f"{figure(measured.low, digits)} to {figure(measured.high, digits)}"


def documents(samples: Iterable[Samples]) -> list[dict[str, object]]:
    """Return what was measured, for the JSON file; times in seconds."""
    return [
        {
            "name": each.contender.name,
            "threads": each.contender.threads,
            "count": each.count,
            "errors": dict(each.errors),
            "seconds": _rounded(each.seconds),
            "cpu_seconds": _rounded(each.cpu_seconds),
            "latency": {f"p{part}": _rounded(each.latency(part)) for part in (50, 90, 99)} if each.count else {},
            "rounds": [_rounded(value) for value in each.rounds],
            "rates": [_rounded(value) for value in each.rates],
        }
        for each in samples
    ]


def _shown(measured: Interval) -> str:
    return f"{measured.value:g}" if interval(measured) == _EXACT else figure(measured.value, 4)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
