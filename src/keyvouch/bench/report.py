"""Benchmark results as Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from keyvouch.bench.paired import Result


def result_table(title: str, results: Sequence[Result]) -> str:
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
    target: float
    measured: float
    at_least: bool = False
    """True if `target` is a minimum, not a maximum."""

    @property
    def reached(self) -> bool:
        """True if the target was reached."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def goal_table(goals: Sequence[Goal]) -> str:
    """Return a Markdown table of targets and measured values."""
    lines = ["| goal | target | measured | |", "| --- | ---: | ---: | --- |"]
    for each in goals:
        sign = ">=" if each.at_least else "<="
        verdict = "reached" if each.reached else "MISSED"
        lines.append(f"| {each.name} | {sign} {each.target:g} | {each.measured:.3f} | {verdict} |")
    return "\n".join(lines)


def to_json(titled: Mapping[str, Sequence[Result]]) -> str:
    """Return the results by title as JSON; times in seconds."""
    return json.dumps({title: [asdict(each) for each in results] for title, results in titled.items()}, indent=2)
