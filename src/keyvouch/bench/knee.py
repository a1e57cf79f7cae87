"""The knee: the number of threads beyond which a store's throughput stops growing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from keyvouch.bench.document import Measurement, Run
from keyvouch.bench.intervals import Interval

_NEGLIGIBLE = 0.05
"""Part by which throughput must grow for more threads to count as useful."""


@dataclass(frozen=True)
class Knee:
    """Where the throughput of one operation of one key stops growing."""

    key: str
    operation: str
    algorithm: str | None
    threads: int
    """The smallest of the measured numbers above which no number has a throughput that is clearly higher."""
    per_second: float
    """Throughput with that number."""
    still_growing: bool
    """True if that is the largest number measured, so that the knee may be beyond it."""


def find_knees(run: Run) -> list[Knee]:
    """Return the knee of each operation that was measured with several numbers of threads in a closed loop."""
    series: dict[tuple[str, str, str | None], list[Measurement]] = defaultdict(list)
    for each in run.measurements:
        if each.per_second and each.rate is None:
            series[each.key, each.operation, each.algorithm].append(each)
    return [_knee(key, points) for key, points in series.items() if len(points) > 1]


def _knee(key: tuple[str, str, str | None], points: Sequence[Measurement]) -> Knee:
    rates = sorted(((each.threads, each.per_second) for each in points if each.per_second), key=lambda point: point[0])
    threads, rate = next(
        point
        for number, point in enumerate(rates)
        if not any(_is_higher(more, point[1]) for _, more in rates[number + 1 :])
    )
    return Knee(*key, threads=threads, per_second=rate.value, still_growing=threads == rates[-1][0])


def _is_higher(more: Interval, rate: Interval) -> bool:
    """Return True if a throughput is higher by more than 5 %, and not only by chance."""
    certain = more.low is None or rate.high is None or more.low > rate.high
    return certain and more.value > rate.value * (1 + _NEGLIGIBLE)
