"""One round: a contender runs for a moment, in one thread or in several, and each operation is timed.

In a closed loop each thread starts the next operation when the last one has ended. In an open loop operations start at
a constant rate, and an operation's time begins when it was *intended* to start: if the store stalls, the operations
that should have been sent in the meantime are counted as slow, and not left out ("coordinated omission").
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from keyvouch.bench.workers import Workers
from keyvouch.errors import ConfigurationError, KeyvouchError, SecretIncorrect, StoreLocked, Throttled

Operation = Callable[[], object]
NOT_STARTED = "not-started"
"""Code of operations that could not start in time, because all threads of an open loop were busy."""
_MOST_LATE = 2.0
"""Seconds after the end of an open loop's round in which operations that are late still start."""
_PILING_UP, _PILED_UP = 1.2, 4.0
"""How many times as far apart as the starts the ends are, in the order of the starts and in their own, if a store
certainly does not keep up: below both, the order of the starts is more exact."""
_FINAL = {Throttled.code, SecretIncorrect.code, StoreLocked.code}
"""Codes of errors after which a store is left in peace: a token locks itself after a few wrong PINs."""


@dataclass(frozen=True)
class Contender:
    """Something to measure: an operation, and how many threads repeat it."""

    name: str
    operation: Operation | None = None
    each: Callable[[], AbstractContextManager[Operation]] | None = None
    """Instead of `operation`: prepares one operation, which is timed, and cleans up after it."""
    threads: int = 1
    """In an open loop, the maximum number of operations in flight."""
    rate: float | None = None
    """Operations per second to start in an open loop; None for a closed loop."""
    most: int | None = None
    """Maximum number of operations, besides those of the warm-up."""
    group: str = ""
    """Contenders of one group stop together once the store limits their rate."""

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` for what cannot be measured."""
        if (self.operation is None) == (self.each is None) or (self.rate and self.each):
            raise ConfigurationError(
                f"Invalid contender {self.name!r}.", hint="Pass either operation or, without a rate, each."
            )
        if self.threads < 1:
            raise ConfigurationError(f"Invalid number of threads: {self.threads}.", hint="Use at least 1.")


@dataclass
class Round:
    """What one round of a contender has measured, or the part of one thread."""

    latencies: list[int] = field(default_factory=list)
    """Nanoseconds of each operation that succeeded."""
    errors: Counter[str] = field(default_factory=Counter)
    """Number of failed operations, by error code."""
    first_error: Exception | None = None
    per_second: float = 0.0
    """Operations per second that succeeded, of all threads together."""
    seconds: float = 0.0
    """Wall-clock time; in an open loop from the first intended start."""
    cpu_seconds: float = 0.0
    """CPU time of the whole process, without other processes."""
    began: int = 0
    """When the first operation began, in nanoseconds of a clock."""
    ended: int = 0
    """When the last one ended."""

    @property
    def throttled(self) -> bool:
        """True if the store limited the rate."""
        return Throttled.code in self.errors

    @property
    def refused(self) -> bool:
        """True if the store must be left in peace."""
        return is_refusal(self.errors)

    def add(self, part: Round) -> None:
        """Add what a thread has measured."""
        self.latencies += part.latencies
        self.errors += part.errors
        self.first_error = self.first_error or part.first_error
        self.cpu_seconds += part.cpu_seconds
        self.began = min(self.began or part.began, part.began)
        self.ended = max(self.ended, part.ended)


def is_refusal(errors: Counter[str]) -> bool:
    """Return True if one of these errors means that the store must be left in peace."""
    return not _FINAL.isdisjoint(errors)


class _Stop:
    """Tells the threads of a round to end."""

    requested = False


def run_round(
    contender: Contender, seconds: float, most: int | None = None, *, workers: Workers | None = None
) -> Round:
    """Run a contender for about `seconds`, or for at most `most` operations, and at least for one.

    An operation that fails is counted by its error code, and its time is not. The round ends if the store limits its
    rate or refuses the PIN; but an open loop counts how many operations were throttled. `workers` are the threads to
    use; by default, each round has its own.
    """
    stop = _Stop()
    own = workers or Workers()
    run = _open_loop if contender.rate else _closed_loop
    cpu, began = time.process_time(), time.perf_counter()
    try:
        made = run(contender, seconds, most, stop, own)
    finally:
        stop.requested = True
        if not workers:
            own.close()
    if not contender.each:
        made.cpu_seconds = time.process_time() - cpu
    made.seconds = made.seconds or time.perf_counter() - began
    return made


def _closed_loop(contender: Contender, seconds: float, most: int | None, stop: _Stop, workers: Workers) -> Round:
    tickets = iter(range(most)) if most is not None else iter(int, 1)  # the second one never ends
    repeat = _repeat_each if contender.each else _repeat
    made = _in_threads(lambda part: repeat(contender, part, seconds, tickets, stop), contender.threads, workers)
    # At the end, some threads are idle while others are in their last operation: rounds must be long enough.
    if made.ended > made.began:
        made.per_second = len(made.latencies) / ((made.ended - made.began) / 1e9)
    return made


def _repeat(contender: Contender, part: Round, seconds: float, tickets: Iterator[int], stop: _Stop) -> None:
    """Repeat the operation until the time is over, at least once; the clock is read once between two operations."""
    operation, clock, record = contender.operation, time.perf_counter_ns, part.latencies.append
    assert operation is not None  # noqa: S101 - a contender has one of the two
    began = now = clock()
    deadline = began + int(seconds * 1e9)
    for _ in tickets:
        before = now
        try:
            operation()
        except Exception as error:  # noqa: BLE001 - counted
            now = clock()
            if _count(part, error):
                stop.requested = True
        else:
            now = clock()
            record(now - before)
        if now >= deadline or stop.requested:
            break
    part.began, part.ended = began, now


def _repeat_each(contender: Contender, part: Round, seconds: float, tickets: Iterator[int], stop: _Stop) -> None:
    """Like `_repeat`, with a preparation before each operation, which is not timed."""
    assert contender.each is not None  # noqa: S101 - a contender has one of the two
    clock = time.perf_counter_ns
    deadline = clock() + int(seconds * 1e9)
    for _ in tickets:
        try:
            with contender.each() as operation:
                cpu, began = time.process_time(), clock()
                operation()
                part.latencies.append(clock() - began)
                part.cpu_seconds += time.process_time() - cpu
        except Exception as error:  # noqa: BLE001 - counted
            if _count(part, error):
                stop.requested = True
        if clock() >= deadline or stop.requested:
            break
    part.ended = sum(part.latencies)  # as if the operations had followed each other


def _open_loop(contender: Contender, seconds: float, most: int | None, stop: _Stop, workers: Workers) -> Round:
    rate, operation, clock = contender.rate or 1.0, contender.operation, time.perf_counter_ns
    assert operation is not None  # noqa: S101 - only operations without a preparation are sent at a rate
    number = max(1, round(rate * seconds))
    number = number if most is None else min(number, most)
    threads = min(contender.threads, number)
    tickets = iter(range(number))
    start = clock() + 250_000 * threads + 10_000_000  # when all threads are ready
    end = start + int(number / rate * 1e9)
    last_start = end + int(_MOST_LATE * 1e9)
    ends = list[tuple[int, int]]()

    def work(part: Round) -> None:
        for ticket in tickets:
            intended = start + int(ticket / rate * 1e9)
            while (wait := intended - clock()) > 0 and not stop.requested:
                time.sleep(min(wait / 1e9, 0.2))
            if stop.requested:
                return
            if clock() > last_start:
                part.errors[NOT_STARTED] += 1
                continue
            try:
                operation()
            except Exception as error:  # noqa: BLE001 - counted
                if _count(part, error) and not part.throttled:
                    stop.requested = True
            else:
                ended = clock()
                part.latencies.append(ended - intended)
                ends.append((ticket, ended))

    made = _in_threads(work, threads, workers)
    if (rest := end - clock()) > 0:
        time.sleep(rest / 1e9)  # the next round's first operation is not due before
    made.seconds = (clock() - start) / 1e9
    made.per_second = completed_per_second([ended / 1e9 for _, ended in sorted(ends)], number / rate)
    return made


def completed_per_second(ends: Sequence[float], due: float) -> float:
    """Return the rate at which operations ended that succeeded; `ends` are in the order of their starts.

    `due` is the time in which all of the round should start: if the store keeps up, that determines the rate. If not,
    each operation takes longer than the one before, so that the ends are further apart than the starts: the rate is the
    slope of the regression line, which is as often too high as too low if the latencies vary. Operations that pile up
    may end in any order, which would flatten the line; then it is that of the ends in their own order.
    """
    highest = len(ends) / due
    if len(ends) < 2:  # noqa: PLR2004 - a line needs two points
        return highest
    between, sorted_between = (
        statistics.linear_regression(range(len(ends)), each).slope for each in (ends, sorted(ends))
    )
    if between * highest > _PILING_UP or sorted_between * highest > _PILED_UP:
        between = sorted_between
    return min(highest, 1 / between) if between > 0 else highest


def _count(part: Round, error: Exception) -> bool:
    """Count a failed operation; return True if the store must be left in peace."""
    code = error.code if isinstance(error, KeyvouchError) else type(error).__name__
    part.errors[code] += 1
    part.first_error = part.first_error or error
    return code in _FINAL


def _in_threads(work: Callable[[Round], None], number: int, workers: Workers) -> Round:
    """Call `work` in this thread, or in `number` others that start together; return what all have measured."""
    parts = [Round() for _ in range(number)]
    if number == 1:
        work(parts[0])
    else:
        workers.run(work, parts)
    made = Round()
    for each in parts:
        made.add(each)
    return made
