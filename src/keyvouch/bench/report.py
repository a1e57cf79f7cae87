"""What was measured, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from keyvouch.bench.paired import Result


def to_table(title: str, results: Sequence[Result]) -> str:
    """Return a table in Markdown; times in microseconds, the spread from the 10th to the 90th percentile."""
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
    """A figure that is to be reached, and the one that was seen."""

    name: str
    wanted: float
    seen: float
    at_least: bool = False
    """Whether `wanted` is the least that will do, and not the most."""

    @property
    def reached(self) -> bool:
        """Whether it will do."""
        return self.seen >= self.wanted if self.at_least else self.seen <= self.wanted


def to_goals(goals: Sequence[Goal]) -> str:
    """Return a table in Markdown of what was to be reached, and what was seen."""
    lines = ["| goal | wanted | seen | |", "| --- | ---: | ---: | --- |"]
    for each in goals:
        sign = ">=" if each.at_least else "<="
        lines.append(
            f"| {each.name} | {sign} {each.wanted:g} | {each.seen:.3f} | {'reached' if each.reached else 'MISSED'} |"
        )
    return "\n".join(lines)


def to_json(titled: Mapping[str, Sequence[Result]]) -> str:
    """Return the results by title; times in seconds."""
    return json.dumps({title: [asdict(each) for each in results] for title, results in titled.items()}, indent=2)
