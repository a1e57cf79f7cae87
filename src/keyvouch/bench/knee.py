"""The knee: the number of threads beyond which a store's throughput stops growing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from keyvouch.bench.comparison import shared_confidence
from keyvouch.bench.document import Measurement, Run
from keyvouch.bench.intervals import Interval, ratio_of_pairs

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
    possible_growth: float = 0.0
    """Part by which the highest throughput with more threads is higher, which may be chance."""

    @property
    def uncertain(self) -> bool:
        """True if more threads seem to help, but the measurement was too short or too noisy to tell."""
        return self.possible_growth > _NEGLIGIBLE


def find_knees(run: Run) -> list[Knee]:
    """Return the knee of each operation that was measured with several numbers of threads in a closed loop."""
    series: dict[tuple[str, str, str | None], list[Measurement]] = defaultdict(list)
    for each in run.measurements:
        if each.per_second and each.rate is None:
            series[each.key, each.operation, each.algorithm].append(each)
    return [_knee(key, points) for key, points in series.items() if len(points) > 1]


def _knee(key: tuple[str, str, str | None], points: Sequence[Measurement]) -> Knee:
    ordered = sorted(points, key=lambda each: each.threads)
    number, knee = next(
        (number, point)
        for number, point in enumerate(ordered)
        if not any(_is_higher(more, point, len(points) - 1) for more in ordered[number + 1 :])
    )
    beyond = ordered[number + 1 :]
    return Knee(
        *key,
        threads=knee.threads,
        per_second=_rate(knee),
        still_growing=not beyond,
        possible_growth=max([0.0, *(_rate(more) / _rate(knee) - 1 for more in beyond)]),
    )


def _interval(each: Measurement) -> Interval:
    assert each.per_second is not None  # noqa: S101 - the others are left out
    return each.per_second


def _rate(each: Measurement) -> float:
    return _interval(each).value


def _is_higher(more: Measurement, less: Measurement, number: int) -> bool:
    """Return True if a throughput is higher by more than 5 %, and not only by chance.

    The numbers of threads are measured in turns, so the rates are compared within each turn: what disturbs the machine
    affects both. `number` comparisons share the probability of error.
    """
    if _rate(more) <= _rate(less) * (1 + _NEGLIGIBLE):
        return False
    if more.rates and less.rates:
        return (ratio_of_pairs(more.rates, less.rates, shared_confidence(number)).low or 0.0) > 1
    low, high = _interval(more).low, _interval(less).high
    return low is not None and high is not None and low > high
