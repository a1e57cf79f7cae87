"""Paired measurements: short runs of every contender, interleaved, repeated many times.

On a shared machine, two long runs in sequence mostly compare the machine's load at two times. Here each round runs
every contender for a few milliseconds, in varying order, and a ratio is the median of the ratios of all rounds.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROUND_SECONDS = 0.02
"""Number of seconds for which one contender runs in one round."""


@dataclass(frozen=True)
class Contender:
    """One way to perform the operation being measured."""

    name: str
    operation: Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One contender's results; times are wall-clock seconds per operation, across all threads."""

    name: str
    threads: int
    median: float
    low: float
    """The 10th percentile over all rounds."""
    high: float
    """The 90th percentile."""
    ratio: float
    """Relative to the first contender: the median of the ratios in each round."""
    difference: float
    """Relative to the first contender, in seconds: the median of the differences in each round."""


def measure(
    contenders: Sequence[Contender], *, threads: int = 1, rounds: int = 50, seconds: float = ROUND_SECONDS
) -> list[Result]:
    """Run the contenders in turns, `seconds` each per round, and compare each with the first."""
    counts = [_calibrate(contender.operation, seconds) for contender in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds):
        order = range(len(contenders)) if number % 2 else reversed(range(len(contenders)))
        for index in order:
            samples[index].append(_time(contenders[index].operation, counts[index], threads))
    return [_summarise(contenders[index].name, threads, samples[index], samples[0]) for index in range(len(contenders))]


def _calibrate(operation: Callable[[], object], seconds: float) -> int:
    """Return how many operations fill a round; the first three calls are for warming up."""
    for _ in range(3):
        operation()
    count = 1
    while (taken := _time(operation, count, 1) * count) < seconds / 4:
        count *= 2
    return max(1, round(count * seconds / taken))


def _time(operation: Callable[[], object], count: int, threads: int) -> float:
    """Return the number of seconds per operation when `threads` threads share the work."""
    if threads == 1:
        begin = time.perf_counter()
        for _ in range(count):
            operation()
        return (time.perf_counter() - begin) / count
    start = threading.Barrier(threads + 1)
    number = max(count, threads)
    shared = iter(range(number))  # each thread takes the next item when free: no thread waits for a slower one's share

    def work() -> None:
        start.wait()
        for _ in shared:
            operation()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begin) / number


def _summarise(name: str, threads: int, own: list[float], first: list[float]) -> Result:
    ordered = sorted(own)
    pairs = list(zip(own, first, strict=True))
    return Result(
        name=name,
        threads=threads,
        median=statistics.median(own),
        low=ordered[len(ordered) // 10],
        high=ordered[len(ordered) * 9 // 10],
        ratio=statistics.median(mine / other for mine, other in pairs),
        difference=statistics.median(mine - other for mine, other in pairs),
    )
