"""Which measurements of a run a plot or a sentence is about, and how keys are named there."""

from __future__ import annotations

from keyvouch._system.text import printable
from keyvouch.bench.document import OPERATIONS, Key, Measurement, Run
from keyvouch.bench.knee import Knee, find_knees

FEWEST = {"p50": 1, "p90": 10, "p99": 100, "p99.9": 1000, "max": 1}
"""Number of operations below which a percentile would only repeat the maximum."""
ENOUGH = 0.98
"""Part of the requested rate that must be achieved."""
_LONGEST_NAME = 28


def signatures(run: Run, key: Key) -> list[Measurement]:
    """Return the successful measurements of signatures with one algorithm, in the order of the number of threads.

    The algorithm is the one that assertions use if it was measured, otherwise the first one that was.
    """
    wanted = (key.label, "signature", run.main_algorithm(key))
    found = [each for each in run.measurements if (each.key, each.operation, each.algorithm) == wanted and each.count]
    return sorted(found, key=lambda each: each.threads)


def with_signatures(run: Run) -> dict[Key, list[Measurement]]:
    """Return the keys that have made at least one signature, each with its `signatures`."""
    return {key: found for key in run.keys if (found := signatures(run, key))}


def knees_of_signatures(run: Run) -> dict[str, Knee]:
    """Return the knee of the `signatures` of each key by its label, if it was measured with several threads."""
    algorithms = {key.label: found[0].algorithm for key, found in with_signatures(run).items()}
    return {
        each.key: each
        for each in find_knees(run)
        if each.operation == "signature" and each.key in algorithms and each.algorithm == algorithms[each.key]
    }


def interruption(run: Run) -> list[str]:
    """Return sentences about what an interrupted run has not measured; none if the run was not interrupted."""
    if not run.interrupted:
        return []
    if not run.measurements:
        return ["Interrupted before anything was measured."]
    missing = "; ".join(f"{key.label}: {', '.join(names)}" for key in run.keys if (names := _missing(run, key)))
    return ["Interrupted: this is what was measured until then."] + (
        [f"Not measured before the interrupt: {missing}."] if missing else []
    )


def _missing(run: Run, key: Key) -> list[str]:
    """Return what every key has, or another key of the run, but this one has not."""
    if key.error:
        return []
    own, all_keys = ({each.operation for each in found} for found in (_of(run, key), run.measurements))
    expected = {"signature", "assertion"} | (all_keys & {"token"})
    return [title.lower() for operation, title in OPERATIONS.items() if operation in expected - own]


def _of(run: Run, key: Key) -> list[Measurement]:
    return [each for each in run.measurements if each.key == key.label]


def percentile(each: Measurement, name: str) -> float | None:
    """Return one of `FEWEST` in seconds; None after too few operations."""
    return each.latency[name] if each.latency and each.count >= FEWEST[name] else None


def cpu_per_thousand(each: Measurement) -> float | None:
    """Return the CPU time of a thousand operations in seconds; None if none succeeded."""
    return each.cpu_seconds / each.count * 1000 if each.count else None


def counts_of_errors(each: Measurement) -> str:
    """Return the numbers of failed operations by code, such as "3 store-unavailable, 1 throttled"."""
    return ", ".join(f"{count:,} {code}" for code, count in sorted(each.errors.items()))


def name_of_key(key: Key) -> str:
    """Return the label with the store's scheme and the key's type, such as "A  pem RSA-2048", on one short line."""
    text = printable(f"{key.label}  {key.scheme} {key.key_type}".rstrip())
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
