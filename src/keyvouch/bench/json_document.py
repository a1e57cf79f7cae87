"""A run as JSON, with what follows from it, for programs that do not use `keyvouch.bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from keyvouch.bench.comparison import Change, Comparison, compare_keys
from keyvouch.bench.document import Measurement, Run
from keyvouch.bench.findings import findings
from keyvouch.bench.knee import find_knees
from keyvouch.bench.units import without_micro_sign


def as_json(run: Run, changes: Sequence[Change] = ()) -> str:
    """Return the document as JSON, which `read_run` reads again, with knees, comparisons and findings.

    `changes` since an earlier run are included. Times are in seconds.
    """
    document = msgspec.to_builtins(run) | {
        "knees": [asdict(each) for each in find_knees(run)],
        "comparisons": [_comparison(each) for each in compare_keys(run)],
        "changes": [_change(each) for each in changes],
        "findings": [without_micro_sign(each) for each in findings(run)],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _comparison(each: Comparison) -> dict[str, object]:
    return {
        "operation": each.operation,
        "threads": each.threads,
        "rate": each.rate,
        "faster": each.faster.key,
        "slower": each.slower.key,
        "ratio": asdict(each.ratio),
        "significant": each.significant,
    }


def _change(each: Change) -> dict[str, object]:
    return {
        **_identity(each.new),
        "old": each.old.latency["p50"],
        "new": each.new.latency["p50"],
        "ratio": asdict(each.ratio),
        "significant": each.significant,
    }


def _identity(each: Measurement) -> dict[str, object]:
    return {
        "key": each.key,
        "operation": each.operation,
        "algorithm": each.algorithm,
        "threads": each.threads,
        "rate": each.rate,
    }
