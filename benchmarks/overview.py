"""Keys of every kind of store, measured in one run, with the bare library under each.

python benchmarks/overview.py [--quick]
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import goals
import key_stores
from goals import Goal, Part
from keyvouch.bench import Interval, Key, Measurement, Plan, Run, as_json, find_knees, measure_keys, units
from keyvouch.bench.intervals import median
from keyvouch.bench.units import duration

STORES = {
    "PFX file": key_stores.pfx_files,
    "SoftHSM": key_stores.softhsm,
    "TPM (swtpm)": key_stores.tpm,
    "OpenBao": key_stores.openbao,
    "Key Vault simulator": key_stores.key_vault,
}
KEY_TYPES = ("RSA-2048", "P-256")
ALGORITHMS = ("PS256", "ES256")
THREADS = (1, 2, 4, 8)
PLOT = "overview.svg"
INTRODUCTION = """\
One run of `keyvouch bench` with `--peer`, all keys in turns; the servers are on this machine. An assertion is a
signature and the claims. *Store* is the signature by the store's plugin, without the framework; *bare library* is what
a program without keyvouch would call. Medians."""
LAYERS = """\
Where the time of an assertion goes, in microseconds, with the 99 % confidence interval. Signatures that come over a
network are verified, which the framework's part includes."""
KNEES = """\
Signatures per second, by the number of threads. The knee is the number beyond which throughput does not clearly grow;
"or more" if it seems to grow, but within the noise."""
COLUMNS = {
    "open_cold": "open, connecting",
    "open_warm": "open, connected",
    "first_signature": "first signature",
    "signature": "signature",
    "assertion": "assertion",
    "stored_key": "store",
    "peer": "bare library",
}


def measured_run(seconds: float) -> tuple[Run, dict[str, str]]:
    """Measure all keys; return the run, and each key's name by its label."""
    names, uris = list[str](), list[str]()
    with contextlib.ExitStack() as stack:
        for name, store in STORES.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make = stack.enter_context(store(folder))
            uris += [make(kind) for kind in KEY_TYPES]
            names += [f"{name}, {kind}" for kind in KEY_TYPES]
        run = measure_keys(uris, Plan(seconds=seconds, threads=THREADS, algorithms=ALGORITHMS, peer=True))
    if failed := [f"{each.uri}: {each.error}" for each in run.keys if each.error]:
        raise RuntimeError("\n".join(failed))
    return run, dict(zip((each.label for each in run.keys), names, strict=True))


def find(run: Run, key: Key, operation: str, threads: int = 1) -> Measurement | None:
    """Return a measurement of a key with the algorithm that assertions use."""
    return next(
        (
            each
            for each in run.measurements
            if (each.key, each.operation, each.threads) == (key.label, operation, threads)
            and each.algorithm in (None, key.preferred)
        ),
        None,
    )


def times(run: Run, names: dict[str, str]) -> str:
    """Return a table of the times of one thread."""
    rows = list[list[str]]()
    for key in run.keys:
        cells = [f"{key.label}: {names[key.label]}"]
        for operation in COLUMNS:
            found = find(run, key, operation)
            cells.append(duration(median(found.rounds).value) if found else "")
        signature = find(run, key, "signature")
        cells.append(duration(signature.latency["p99"]) if signature else "")
        rows.append(cells)
    return goals.table(["key", *COLUMNS.values(), "signature, p99"], rows)


def layers(run: Run, names: dict[str, str]) -> str:
    """Return a table of what the framework and the store's plugin add to the bare library."""
    rows = [
        [f"{key.label}: {names[key.label]}", *(_cell(each) for each in (_added(run, key, *pair) for pair in _LAYERS))]
        for key in run.keys
    ]
    return goals.table(["key", "framework", "store's plugin", "bare library"], rows)


_LAYERS = (("assertion", "stored_key"), ("stored_key", "peer"), ("peer", None))


def _added(run: Run, key: Key, operation: str, below: str | None) -> Interval | None:
    own, other = find(run, key, operation), find(run, key, below) if below else None
    if own is None or (below and other is None):
        return None
    others = other.rounds if other else (0.0,) * len(own.rounds)
    return median([(each - base) * 1e6 for each, base in zip(own.rounds, others, strict=False)])


def _cell(measured: Interval | None) -> str:
    return f"{goals.figure(measured.value)} ({goals.interval(measured)})" if measured else ""


def throughput(run: Run, names: dict[str, str]) -> str:
    """Return a table of the throughput by the number of threads, with the knee."""
    knees = {each.key: each for each in find_knees(run) if each.operation == "signature"}
    rows = list[list[str]]()
    for key in run.keys:
        found = (find(run, key, "signature", threads) for threads in THREADS)
        rates = [goals.figure(each.per_second.value) if each and each.per_second else "" for each in found]
        knee = knees[key.label]
        shown = f"{knee.threads}, or more" if knee.still_growing or knee.uncertain else str(knee.threads)
        rows.append([f"{key.label}: {names[key.label]}", *rates, shown])
    return goals.table(["key", *(units.threads(each) for each in THREADS), "knee"], rows)


def goals_of(run: Run, names: dict[str, str]) -> Iterator[Goal]:
    """Yield the goals: what the pages about TPMs say."""
    for key in run.keys:
        signature = find(run, key, "signature")
        if signature and names[key.label].startswith("TPM"):
            name = f"{names[key.label]}: a signature"
            yield Goal(name, 10, goals.scaled(signature.rounds, 1e3), unit="ms")


def keys(run: Run, names: dict[str, str]) -> Iterator[list[str]]:
    """Yield a row for each key: what it is."""
    for key in run.keys:
        yield [f"{key.label}: {names[key.label]}", key.preferred, key.plugin, key.module or ""]


def measure_subject(seconds: float) -> Part:
    """Measure all keys."""
    run, names = measured_run(seconds)
    text = [
        INTRODUCTION,
        times(run, names),
        f"![Latency, throughput and layers of each key](plots/{PLOT})",
        KNEES,
        throughput(run, names),
        LAYERS,
        layers(run, names),
        "The keys:",
        goals.table(["key", "algorithm", "plugin", "module"], keys(run, names)),
    ]
    document = {"run": json.loads(as_json(run))}
    return Part("All stores", "\n\n".join(text), list(goals_of(run, names)), document, {PLOT: run})


if __name__ == "__main__":
    goals.main(measure_subject)
