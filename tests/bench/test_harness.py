"""Interleaved measurements of several contenders."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from bench.fake_clock import FakeClock, clock  # noqa: F401 - a fixture
from keyvouch.bench import Contender, measure
from keyvouch.bench.rounds import Operation
from keyvouch.errors import KeyvouchError, SecretIncorrect, StoreUnavailable, Throttled
from scripted_store import LONG_ENOUGH


def test_samples(clock: FakeClock) -> None:
    """A contender is measured for the given time, in rounds; percentiles have three digits."""
    [samples] = measure([Contender("ten ms", lambda: clock.advance(0.01))], seconds=3)
    assert samples.count == pytest.approx(300, rel=0.05)
    assert len(samples.rounds) >= 12
    assert samples.latency(50) == pytest.approx(0.01, rel=0.001)
    assert samples.rates == pytest.approx([100] * len(samples.rates))


def test_warm_up_is_not_counted(clock: FakeClock) -> None:
    """The first operations, which are often slow, do not appear in the results."""
    times = iter([5.0])
    [samples] = measure([Contender("slow start", lambda: clock.advance(next(times, 0.01)))], seconds=3)
    assert samples.latency(100) < 0.02


@pytest.mark.parametrize("taken", [5e-6, 2.0])
def test_range(clock: FakeClock, taken: float) -> None:
    """From 5 microseconds to 2 seconds an operation, with the same options."""
    [samples] = measure([Contender("any", lambda: clock.advance(taken))], seconds=3)
    assert samples.latency(50) == pytest.approx(taken, rel=0.002)
    assert samples.seconds == pytest.approx(3, abs=2 * max(0.05, taken))


def test_turns(clock: FakeClock) -> None:
    """Contenders take turns of a few milliseconds, so that a disturbance affects all of them."""
    calls = list[str]()

    def contender(name: str) -> Contender:
        def operation() -> None:
            calls.append(name)
            clock.advance(0.01)

        return Contender(name, operation)

    measure([contender("first"), contender("second")], seconds=3)
    changes = sum(each != other for each, other in itertools.pairwise(calls))
    assert changes >= 20


def test_most(clock: FakeClock) -> None:
    """A contender ends after the given number of operations, besides its warm-up."""
    [samples] = measure([Contender("counted", lambda: clock.advance(0.01), most=25)], seconds=3600)
    assert samples.count == 25


def test_most_with_several_threads() -> None:
    """A small number of operations still occupies all threads: otherwise more threads would seem not to help."""
    calls, together = list[int](), threading.Barrier(8)

    def operation() -> None:
        calls.append(1)
        if len(calls) > 1:  # the first one warms up, in one thread
            together.wait(LONG_ENOUGH)

    [samples] = measure([Contender("counted", operation, threads=8, most=16)], seconds=3600)
    assert (samples.count, samples.errors.total()) == (16, 0)


def test_low_rate(clock: FakeClock) -> None:
    """The rounds of an open loop have several operations, so that a slow store can show whether it keeps up."""
    [samples] = measure([Contender("rare", lambda: clock.advance(0.001), rate=2, threads=4)], seconds=10)
    assert (samples.count, len(samples.rounds)) == (20, 4)


def test_failing_contender(clock: FakeClock) -> None:
    """A contender that always fails is tried once, and the others are measured."""
    calls = list[int]()

    def fail() -> None:
        calls.append(1)
        clock.advance(0.01)
        raise StoreUnavailable("gone", hint="wait")

    failing, other = measure([Contender("failing", fail), Contender("other", lambda: clock.advance(0.01))], seconds=1)
    assert (len(calls), failing.stopped, failing.errors) == (1, True, {"store-unavailable": 1})
    assert other.count > 50


def test_slow_contender_that_fails_once(clock: FakeClock) -> None:
    """A single failure does not end the measurement of a store whose operations take as long as a round."""
    failures = iter([None] * 20 + [StoreUnavailable("gone", hint="wait")])

    def operation() -> None:
        clock.advance(0.05)
        if error := next(failures, None):
            raise error

    [samples] = measure([Contender("slow", operation)], seconds=3)
    assert (samples.stopped, samples.errors) == (False, {"store-unavailable": 1})
    assert samples.count > 50


def test_failures_count_as_operations(clock: FakeClock) -> None:
    """The maximum number of operations includes those that fail: a service may bill for them, too."""
    calls = list[int]()

    def operation() -> None:
        calls.append(1)
        clock.advance(0.01)
        if len(calls) % 2 == 0:
            raise StoreUnavailable("gone", hint="wait")

    [samples] = measure([Contender("half", operation, most=40)], seconds=3600)
    assert samples.count + samples.errors.total() == 40


def refused(clock: FakeClock, seconds: float, after: int, error: KeyvouchError) -> tuple[list[int], Operation]:
    """Return a list of calls, and an operation that takes so many seconds, and fails after so many calls."""
    calls = list[int]()

    def operation() -> None:
        calls.append(1)
        clock.advance(seconds)
        if len(calls) > after:
            raise error

    return calls, operation


@pytest.mark.parametrize("rate", [None, 20.0])
def test_wrong_pin(clock: FakeClock, rate: float | None) -> None:
    """A PIN that is refused is not tried again, by none of the group: a token may lock itself."""
    calls, operation = refused(clock, 0.001, 20, SecretIncorrect("wrong PIN", hint="correct it"))
    first, second = (Contender(name, operation, rate=rate, group="A") for name in ("first", "second"))
    samples = measure([first, second], seconds=3)
    assert len(calls) == 21
    assert [each.stopped for each in samples] == [True, True]


def test_throttled_group(clock: FakeClock) -> None:
    """Once a service limits one contender, none of its group calls it again."""
    calls, operation = refused(clock, 0.01, 200, Throttled("too many", hint="wait"))
    first = Contender("first", operation, group="A")
    second = Contender("second", operation, group="A")
    other = Contender("other", lambda: clock.advance(0.01), group="B")
    samples = measure([first, second, other], seconds=3)
    assert len(calls) == 201
    assert sum(each.errors["throttled"] for each in samples) == 1
    assert [each.stopped for each in samples] == [True, True, False]


def test_progress(clock: FakeClock) -> None:
    """The reported part only grows, up to 1."""
    parts = list[float]()
    measure([Contender("ten ms", lambda: clock.advance(0.01))], seconds=1, progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(1)


def test_interrupted(clock: FakeClock) -> None:
    """What was measured before an interrupt is kept in the caller's list."""
    samples = list[Any]()

    def operation() -> None:
        clock.advance(0.01)
        if clock.now > 2e9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure([Contender("endless", operation)], seconds=60, samples=samples)
    assert samples[0].count > 100
