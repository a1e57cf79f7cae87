"""Benchmark results as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from keyvouch.bench.paired import Result


def to_table(title: str, results: Sequence[Result]) -> str:
    """Return a Markdown table; times in microseconds, spread from the 10th to the 90th percentile."""
    lines = [
        f"### {title}",
        "",
        "| | threads | us | spread | ratio | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {each.name} | {each.threads} | {each.median * 1e6:.1f} | {each.low * 1e6:.1f} - {each.high * 1e6:.1f}"
        f" | {each.ratio:.3f} | {each.difference * 1e6:+.2f} |"
        for each in results
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Goal:
    """A target value and the measured value."""

    name: str
    wanted: float
    seen: float
    at_least: bool = False
    """True if `wanted` is a minimum, not a maximum."""

    @property
    def reached(self) -> bool:
        """True if the target was reached."""
        return self.seen >= self.wanted if self.at_least else self.seen <= self.wanted


def to_goals(goals: Sequence[Goal]) -> str:
    """Return a Markdown table of targets and measured values."""
    lines = ["| goal | wanted | seen | |", "| --- | ---: | ---: | --- |"]
    for each in goals:
        sign = ">=" if each.at_least else "<="
        lines.append(
            f"| {each.name} | {sign} {each.wanted:g} | {each.seen:.3f} | {'reached' if each.reached else 'MISSED'} |"
        )
    return "\n".join(lines)


def to_json(titled: Mapping[str, Sequence[Result]]) -> str:
    """Return the results by title as JSON; times in seconds."""
    return json.dumps({title: [asdict(each) for each in results] for title, results in titled.items()}, indent=2)
