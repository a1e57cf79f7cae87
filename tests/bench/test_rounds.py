"""One round of a contender: what is timed, counted, and when it ends."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bench.fake_clock import FakeClock, clock  # noqa: F401 - a fixture
from keyvouch.bench import workers
from keyvouch.bench.rounds import Contender, Operation, completed_per_second, run_round
from keyvouch.errors import ConfigurationError, StoreUnavailable, Throttled


def test_closed_loop(clock: FakeClock) -> None:
    """Operations follow each other until the time is over, and the rate is that of the operations."""
    made = run_round(Contender("ten ms", lambda: clock.advance(0.01)), 0.1)
    assert made.latencies == [10_000_000] * 10
    assert made.per_second == pytest.approx(100)
    assert made.seconds == pytest.approx(0.1)


def test_slow_operation(clock: FakeClock) -> None:
    """An operation that takes longer than the round is performed once."""
    made = run_round(Contender("two s", lambda: clock.advance(2)), 0.05)
    assert made.latencies == [2_000_000_000]


def test_most(clock: FakeClock) -> None:
    """A number of operations ends the round before its time."""
    calls = list[int]()
    made = run_round(Contender("counted", lambda: calls.append(1), threads=3), 60, 7)
    assert len(calls) == len(made.latencies) == 7


def test_preparation_is_not_timed(clock: FakeClock) -> None:
    """Only the operation itself is timed, not what prepares it and cleans up."""

    @contextlib.contextmanager
    def each() -> Iterator[Operation]:
        clock.advance(1)
        yield lambda: clock.advance(0.01)
        clock.advance(1)

    made = run_round(Contender("prepared", each=each), 3)
    assert made.latencies == [10_000_000] * 2
    assert made.per_second == pytest.approx(100)
    assert made.cpu_seconds == pytest.approx(0.02)


def test_errors_are_counted_by_code(clock: FakeClock) -> None:
    """A failed operation has an error code instead of a latency; other exceptions are counted by their class."""
    outcomes = iter([StoreUnavailable("gone", hint="wait"), None, ValueError("wrong"), None])

    def operation() -> None:
        clock.advance(0.01)
        if error := next(outcomes):
            raise error

    made = run_round(Contender("failing", operation), 60, 4)
    assert made.errors == {"store-unavailable": 1, "ValueError": 1}
    assert made.latencies == [10_000_000] * 2
    assert isinstance(made.first_error, StoreUnavailable)


def test_throttling_ends_a_closed_loop(clock: FakeClock) -> None:
    """A limit was found: the service is not called again, and the time that it demands is not waited for."""
    calls = list[int]()

    def operation() -> None:
        calls.append(1)
        clock.advance(0.01)
        if len(calls) == 3:
            raise Throttled("too many", hint="wait", retry_after=60)

    made = run_round(Contender("throttled", operation), 60)
    assert made.throttled
    assert (len(calls), len(made.latencies), clock.slept) == (3, 2, [])


def test_open_loop_starts_at_the_rate(clock: FakeClock) -> None:
    """Operations start when they are due, however short they are."""
    made = run_round(Contender("constant", lambda: None, rate=100, threads=2), 1)
    assert len(made.latencies) == 100
    assert made.per_second == pytest.approx(100, rel=0.05)


def test_stall_in_an_open_loop(clock: FakeClock) -> None:
    """What should have started while the store stalled counts as slow (no coordinated omission)."""
    calls = list[int]()
    lock = threading.Lock()

    def operation() -> None:
        with lock:
            calls.append(1)
            if len(calls) == 100:
                clock.advance(1)

    made = run_round(Contender("stalling", operation, rate=100, threads=2), 3)
    late = [each for each in made.latencies if each > 500_000_000]
    assert len(made.latencies) == 300
    assert 48 <= len(late) <= 52  # the stall of a second covers a hundred starts, half of them by more than 0.5 s
    assert max(made.latencies) >= 990_000_000


def test_throttling_in_an_open_loop_is_counted(clock: FakeClock) -> None:
    """The rate is given, so the part that the service refuses is the result."""
    calls = list[int]()
    lock = threading.Lock()

    def operation() -> None:
        with lock:
            calls.append(1)
            if len(calls) % 2:
                raise Throttled("too many", hint="wait")

    made = run_round(Contender("throttled", operation, rate=100, threads=2), 1)
    assert (made.errors["throttled"], len(made.latencies)) == (50, 50)


def test_threads_work_at_once() -> None:
    """With four threads, four operations are in flight."""
    together = threading.Barrier(4)
    made = run_round(Contender("four", lambda: together.wait(60), threads=4), 0, 4)
    assert len(made.latencies) == 4


def test_interrupt_ends_the_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C stops the threads after the operation that they are performing, and is passed on."""
    threads = set[threading.Thread]()
    both_started = threading.Event()

    def operation() -> None:
        threads.add(threading.current_thread())
        if len(threads) == 2:
            both_started.set()

    class Interrupted(threading.Semaphore):
        def acquire(self, *arguments: object, **options: object) -> bool:
            assert both_started.wait(60)
            raise KeyboardInterrupt

    monkeypatch.setattr("keyvouch.bench.workers.threading.Semaphore", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_round(Contender("endless", operation, threads=2), 3600)
    for each in threads:
        each.join(60)
        assert not each.is_alive()


def test_operations_that_cannot_start(clock: FakeClock) -> None:
    """If all threads are busy until long after the end of a round, what was due is counted, and no longer started."""
    made = run_round(Contender("overloaded", lambda: clock.advance(1), rate=10, threads=2), 2)
    assert len(made.latencies) + made.errors["not-started"] == 20
    assert 4 <= len(made.latencies) <= 6  # of a second each, until two seconds after the end
    assert made.per_second == pytest.approx(1)


def test_rate_is_not_exceeded(clock: FakeClock) -> None:
    """A round ends when its last operation's time is over, so that the next one does not start too early."""
    made = run_round(Contender("rare", lambda: None, rate=0.5, threads=2), 1)
    assert (len(made.latencies), made.per_second) == (1, 0.5)
    assert made.seconds == pytest.approx(2)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"operation": int, "each": contextlib.nullcontext},
        {"each": contextlib.nullcontext, "rate": 5.0},
        {"operation": int, "threads": 0},
    ],
)
def test_invalid_contender(arguments: dict[str, Any]) -> None:
    """A contender has one operation, and openings are not started at a rate."""
    with pytest.raises(ConfigurationError):
        Contender("invalid", **arguments)


def test_store_that_keeps_up_achieves_the_rate() -> None:
    """At 100 per second with latencies of 1 to 40 ms, the first and the last end are not one period apart."""
    source = random.Random(1)
    rates = [completed_per_second([i / 100 + source.uniform(0.001, 0.04) for i in range(10)], 0.1) for _ in range(100)]
    assert statistics.median(rates) == pytest.approx(100, rel=0.03)


def test_slow_store_keeps_up_with_a_low_rate() -> None:
    """Operations that take longer than the time between two starts are in flight together."""
    assert completed_per_second([i / 10 + 0.3 for i in range(5)], 0.5) == pytest.approx(10)


def test_store_that_does_not_keep_up() -> None:
    """Ends further apart than the starts are the rate of the store; one end says nothing."""
    assert completed_per_second([i / 50 for i in range(10)], 0.1) == pytest.approx(50)
    assert completed_per_second([7.0], 0.5) == 2


@pytest.mark.parametrize("overload", [2, 4, 20, 100])
def test_operations_that_end_in_another_order(overload: int) -> None:
    """If a store serves any of those that wait, the rate is nevertheless that of all ends."""
    source, starts, waiting, ends = random.Random(1), 1000 * overload, list[int](), dict[int, float]()
    started = 0
    for served in range(1, 2001):  # one in each millisecond
        while started < min(2000, starts * served // 1000):
            waiting.append(started)
            started += 1
        ends[waiting.pop(source.randrange(len(waiting)))] = served / 1000
    assert completed_per_second([ends[each] for each in range(2000)], 2000 / starts) == pytest.approx(1000, rel=0.02)


def test_threads_are_those_of_the_pool() -> None:
    """Libraries that keep something for each thread keep it from round to round."""
    threads = set[int]()
    contender = Contender("two", lambda: threads.add(threading.get_ident()), threads=2)
    pool = workers.Workers()
    for _ in range(20):
        run_round(contender, 0, workers=pool)
    pool.close()
    assert len(threads) <= 2
