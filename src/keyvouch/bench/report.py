"""What was measured, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

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


def to_json(titled: Mapping[str, Sequence[Result]]) -> str:
    """Return the results by title; times in seconds."""
    return json.dumps({title: [asdict(each) for each in results] for title, results in titled.items()}, indent=2)
