"""Documents of runs, constructed for tests of what is written about them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from keyvouch.bench import Interval, Key, Machine, Measurement, Run
from keyvouch.bench.document import Limit
from keyvouch.bench.intervals import median

HERE = Machine(system="Linux 6.1", processor="a CPU", cores=2, memory=2**32, python="CPython 3.13.0")
LIMIT = Limit(2000, 10.0, "vault", "https://example.com/limits")
MILLISECOND = 1e-3


def key(label: str, **facts: Any) -> Key:
    """An RSA key in a PEM file, except for what is given."""
    usual = {"uri": f"pem:{label}.pem", "scheme": "pem", "key_type": "RSA-2048", "preferred": "PS256"}
    return Key(label=label, **{**usual, "plugin": "keyvouch 0.1.0", **facts})


def latencies(typical: float, count: int = 2000) -> list[float]:
    """Return times in seconds, a few of them long."""
    source = random.Random(7)
    return [typical * source.lognormvariate(0, 0.03) * (1 if source.random() < 0.97 else 8) for _ in range(count)]


def measurement(
    label: str,
    operation: str = "signature",
    times: Sequence[float] = (),
    *,
    threads: int = 1,
    rate: float | None = None,
    rounds: Sequence[float] = (),
    per_second: Interval | None = None,
    errors: Mapping[str, int] | None = None,
    algorithm: str | None = "PS256",
    **more: Any,
) -> Measurement:
    """A measurement that took these times in seconds; without any, all operations failed."""
    histogram = HdrHistogram(1, 3_600_000_000_000, 3)
    for each in times:
        histogram.record_value(round(each * 1e9))
    latency = {}
    if times:
        latency = {"min": min(times), "mean": statistics.fmean(times), "max": max(times)}
        latency |= {f"p{each:g}": sorted(times)[math.ceil(len(times) * each / 100) - 1] for each in (50, 90, 99, 99.9)}
        rounds = rounds or [statistics.median(times)] * 20
        per_second = per_second or median([threads / each for each in rounds])
    return Measurement(
        key=label,
        operation=operation,
        threads=threads,
        count=len(times),
        errors=dict(errors or {}),
        seconds=more.pop("seconds", 3.0),
        cpu_seconds=1.0,
        algorithm=None if operation.startswith("open") else algorithm,
        rate=rate,
        latency=latency,
        per_second=per_second,
        rounds=tuple(rounds),
        histogram=histogram.encode().decode() if times else None,
        **more,
    )


def run_of(*measurements: Measurement, keys: Sequence[Key] = (), **more: Any) -> Run:
    """A run with these measurements; keys that are not given are like those of `key`."""
    labels = dict.fromkeys(each.key for each in measurements)
    return Run(
        started="2026-12-01T08:30:00+00:00",
        machine=more.pop("machine", HERE),
        versions={"cryptography": "50.0.2", "keyvouch": "0.1.0"},
        seconds=3.0,
        keys=tuple(keys) or tuple(key(each) for each in labels),
        measurements=measurements,
        **more,
    )


def all_operations(
    label: str, typical: float, *, peer: bool = False, rates: Mapping[int, float] | None = None
) -> list[Measurement]:
    """Everything that is measured with one key, whose signatures take `typical` seconds.

    `rates` are signatures per second by the number of threads, as in `threads_of`.
    """
    factors = {"open_cold": 40.0, "first_signature": 2.0, "open_warm": 30.0, "stored_key": 1.0}
    found = [measurement(label, name, latencies(factor * typical, 12)) for name, factor in factors.items()]
    found[-1] = measurement(label, "stored_key", latencies(typical))
    found += threads_of(label, rates) if rates else [measurement(label, "signature", latencies(typical * 1.01))]
    found.append(measurement(label, "assertion", latencies(typical + 10e-6)))
    if peer:
        found.append(measurement(label, "peer", latencies(typical * 0.95)))
    return found


def threads_of(label: str, rates: Mapping[int, float], spread: float = 0.05) -> list[Measurement]:
    """Signatures with several numbers of threads, which have these rates per second."""
    return [
        measurement(
            label,
            times=latencies(threads / rate),
            threads=threads,
            rounds=[1 / rate] * 20,
            per_second=Interval(rate, rate * (1 - spread), rate * (1 + spread)),
        )
        for threads, rate in rates.items()
    ]
