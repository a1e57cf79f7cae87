"""Paired measurements: short runs of every contender, interleaved, many times over.

On a machine that others use too, two long runs one after the other compare the machine's moods. Here each round runs
every contender for a few milliseconds, in an order that changes, and a ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROUND_SECONDS = 0.02
"""How long one contender runs in one round."""


@dataclass(frozen=True)
class Contender:
    """One way to do the thing that is measured."""

    name: str
    act: Callable[[], object]


@dataclass(frozen=True)
class Result:
    """What one contender showed; times are seconds of wall clock for one act, over all threads together."""

    name: str
    threads: int
    median: float
    low: float
    """The 10th percentile of the rounds."""
    high: float
    """The 90th percentile."""
    ratio: float
    """To the first contender: the median of the rounds' ratios."""
    difference: float
    """To the first contender, in seconds: the median of the rounds' differences."""


def measure(
    contenders: Sequence[Contender], *, threads: int = 1, rounds: int = 50, seconds: float = ROUND_SECONDS
) -> list[Result]:
    """Run the contenders in turns, `seconds` each in a round, and compare each with the first."""
    counts = [_calibrate(contender.act, seconds) for contender in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds):
        order = range(len(contenders)) if number % 2 else reversed(range(len(contenders)))
        for index in order:
            samples[index].append(_time(contenders[index].act, counts[index], threads))
    return [_summarise(contenders[index].name, threads, samples[index], samples[0]) for index in range(len(contenders))]


def _calibrate(act: Callable[[], object], seconds: float) -> int:
    """Return how many acts fill a round; the first ones warm up."""
    for _ in range(3):
        act()
    count = 1
    while (taken := _time(act, count, 1) * count) < seconds / 4:
        count *= 2
    return max(1, round(count * seconds / taken))


def _time(act: Callable[[], object], count: int, threads: int) -> float:
    """Return the seconds that one act takes, where `threads` threads share the work."""
    if threads == 1:
        begin = time.perf_counter()
        for _ in range(count):
            act()
        return (time.perf_counter() - begin) / count
    start = threading.Barrier(threads + 1)
    number = max(count, threads)
    shared = iter(range(number))  # whoever is free takes the next: no thread waits for a slower one's share

    def work() -> None:
        start.wait()
        for _ in shared:
            act()

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
