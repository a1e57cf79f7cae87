"""One round: a contender runs for a moment, in one thread or in several, and each operation is timed.

In a closed loop each thread starts the next operation when the last one has ended. In an open loop operations start at
a constant rate, and an operation's time begins when it was *intended* to start: if the store stalls, the operations
that should have been sent in the meantime are counted as slow, and not left out ("coordinated omission").
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from keyvouch.errors import KeyvouchError, Throttled

Operation = Callable[[], object]


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


@dataclass
class Round:
    """What one round of a contender has measured."""

    latencies: list[int] = field(default_factory=list)
    """Nanoseconds of each operation that succeeded."""
    errors: Counter[str] = field(default_factory=Counter)
    """Number of failed operations, by error code."""
    first_error: Exception | None = None
    per_second: float = 0.0
    """Operations per second that succeeded, of all threads together."""
    seconds: float = 0.0
    """Wall-clock time; in an open loop from the first intended start."""
    began: int = 0
    """When the first operation began, in nanoseconds of a clock."""
    ended: int = 0
    """When the last one ended."""
    cpu_seconds: float = 0.0
    """CPU time of the whole process, without other processes."""

    @property
    def throttled(self) -> bool:
        """True if the store limited the rate."""
        return Throttled.code in self.errors


class Stop:
    """Tells the threads of a round to end."""

    requested = False


def run_round(
    contender: Contender, seconds: float, most: int | None = None, *, pool: ThreadPoolExecutor | None = None
) -> Round:
    """Run a contender for about `seconds`, or for at most `most` operations, and at least for one.

    An operation that fails is counted by its error code, and its time is not. A closed loop ends if the store limits
    its rate; an open loop goes on, and counts how many operations were refused. `pool` has enough threads for the
    contender: libraries that keep something for each thread then do not do so for each round.
    """
    stop = Stop()
    cpu, began = time.process_time(), time.perf_counter()
    run = _open_loop if contender.rate else _closed_loop
    made = run(contender, seconds, most, stop, pool)
    if not contender.each:
        made.cpu_seconds = time.process_time() - cpu
    made.seconds = made.seconds or time.perf_counter() - began
    return made


def _closed_loop(
    contender: Contender, seconds: float, most: int | None, stop: Stop, pool: ThreadPoolExecutor | None
) -> Round:
    tickets = iter(range(most)) if most is not None else iter(int, 1)  # the second one never ends
    repeat = _repeat_each if contender.each else _repeat

    def work(part: Round) -> None:
        repeat(contender, part, time.perf_counter_ns() + int(seconds * 1e9), tickets, stop)

    parts = _in_threads(work, contender.threads, stop, pool)
    made = _joined(parts)
    busy = max(each.ended for each in parts) - min(each.began for each in parts)
    made.per_second = len(made.latencies) / (busy / 1e9) if busy > 0 else 0.0
    return made


def _repeat(contender: Contender, part: Round, deadline: int, tickets: Iterator[int], stop: Stop) -> None:
    """Repeat the operation until the deadline, at least once; a time is taken once between two operations."""
    operation, clock, record = contender.operation, time.perf_counter_ns, part.latencies.append
    assert operation is not None  # noqa: S101 - a contender has one of the two
    part.began = now = clock()
    for _ in tickets:
        try:
            operation()
        except Exception as error:  # noqa: BLE001 - counted
            now = clock()
            if _count(part, error):
                stop.requested = True
        else:
            ended = clock()
            record(ended - now)
            now = ended
        if now >= deadline or stop.requested:
            break
    part.ended = now


def _repeat_each(contender: Contender, part: Round, deadline: int, tickets: Iterator[int], stop: Stop) -> None:
    """Like `_repeat`, with a preparation before each operation, which is not timed."""
    assert contender.each is not None  # noqa: S101 - a contender has one of the two
    clock = time.perf_counter_ns
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


def _open_loop(
    contender: Contender, seconds: float, most: int | None, stop: Stop, pool: ThreadPoolExecutor | None
) -> Round:
    rate = contender.rate or 1.0
    number = max(1, round(rate * seconds))
    number = number if most is None else min(number, most)
    tickets = iter(range(number))
    threads = min(contender.threads, number)
    operation, clock = contender.operation, time.perf_counter_ns
    assert operation is not None  # noqa: S101 - only operations without a preparation are sent at a rate
    start = clock() + 1_000_000 * threads // 4 + 10_000_000  # when all threads are ready
    ends = list[int]()

    def work(part: Round) -> None:
        for ticket in tickets:
            intended = start + int(ticket / rate * 1e9)
            while (wait := intended - clock()) > 0 and not stop.requested:
                time.sleep(min(wait / 1e9, 0.2))
            if stop.requested:
                return
            try:
                operation()
            except Exception as error:  # noqa: BLE001 - counted
                _count(part, error)
            else:
                ended = clock()
                part.latencies.append(ended - intended)
                ends.append(ended)

    made = _joined(_in_threads(work, threads, stop, pool))
    if (rest := start + int(number / rate * 1e9) - clock()) > 0:
        time.sleep(rest / 1e9)  # the next round's first operation is not due before
    made.seconds = (clock() - start) / 1e9
    if len(ends) > 1:
        made.per_second = (len(ends) - 1) / max(1e-9, (max(ends) - min(ends)) / 1e9)
    elif ends:
        made.per_second = 1e9 / (ends[0] - start)
    return made


def _count(part: Round, error: Exception) -> bool:
    """Count a failed operation; return True if the store limits the rate."""
    part.errors[error.code if isinstance(error, KeyvouchError) else type(error).__name__] += 1
    part.first_error = part.first_error or error
    return isinstance(error, Throttled)


def _in_threads(work: Callable[[Round], None], number: int, stop: Stop, pool: ThreadPoolExecutor | None) -> list[Round]:
    """Call `work` in this thread, or in `number` others that start together; return what each has measured."""
    parts = [Round() for _ in range(number)]
    if number == 1:
        work(parts[0])
        return parts
    ready = threading.Barrier(number)

    def begin(part: Round) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # interrupted
            ready.wait()
            work(part)

    with contextlib.nullcontext(pool) if pool else ThreadPoolExecutor(number) as threads:
        try:
            futures = [threads.submit(begin, part) for part in parts]
            while wait(futures, 0.5).not_done:  # a wait without a timeout cannot be interrupted on Windows
                pass
        except BaseException:
            stop.requested = True
            ready.abort()
            raise
    for each in futures:
        each.result()  # raises what is not an error of the operation
    return parts


def _joined(parts: list[Round]) -> Round:
    made = Round()
    for each in parts:
        made.latencies += each.latencies
        made.cpu_seconds += each.cpu_seconds
        made.errors += each.errors
        made.first_error = made.first_error or each.first_error
    return made
