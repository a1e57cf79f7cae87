"""One thread does the work, and those that want the same result wait for it."""

import functools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.errors import StoreUnavailable
from scripted_store import LONG_ENOUGH, Gate, in_threads, until


def waiting_for(flights: SingleFlight[int], key: str) -> int:
    """The number of threads waiting for this key's flight."""
    flight = flights._flights.get(key)
    return len(flight.ended._cond._waiters) if flight else 0  # type: ignore[attr-defined]


def test_threads_share_one_result() -> None:
    """The work is done once for all callers that arrive meanwhile."""
    flights, gate, calls = SingleFlight[int](), Gate(), []

    def work() -> int:
        calls.append(1)
        gate.wait()
        return 7

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(flights.do, "key", work, timeout=LONG_ENOUGH) for _ in range(8)]
        until(lambda: waiting_for(flights, "key") == 7)
        gate.open()
        assert [answer.result() for answer in answers] == [7] * 8
    assert len(calls) == 1


def test_threads_share_one_failure() -> None:
    """A failure is raised for all callers, each with a copy of the error; those that waited do not repeat the work."""
    flights, gate, error, calls = SingleFlight[int](), Gate(), StoreUnavailable("down", hint="wait", uri="a:b"), []
    error.__cause__ = OSError("the cause")

    def work() -> int:
        calls.append(1)
        gate.wait()
        raise error

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(flights.do, "key", work, timeout=LONG_ENOUGH) for _ in range(8)]
        until(lambda: waiting_for(flights, "key") == 7)
        gate.open()
        errors = [answer.exception() for answer in answers]
    assert len({id(each) for each in errors}) == 8
    for each in errors:
        assert isinstance(each, StoreUnavailable)
        assert (each.message, each.hint, each.uri, each.__cause__) == ("down", "wait", "a:b", error.__cause__)
    assert len(calls) == 1


def test_error_that_cannot_be_copied_is_shared() -> None:
    """An error whose class cannot be copied is raised in all threads as the same object."""

    class Odd(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__(code)

    flights, gate, error = SingleFlight[int](), Gate(), Odd(code=1)

    def work() -> int:
        gate.wait()
        raise error

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(flights.do, "key", work, timeout=LONG_ENOUGH) for _ in range(4)]
        until(lambda: waiting_for(flights, "key") == 3)
        gate.open()
        assert all(answer.exception() is error for answer in answers)


def test_copies_have_notes_of_their_own() -> None:
    """A note that one thread adds to its copy of an error is not in another's copy."""
    flights, gate, error = SingleFlight[int](), Gate(), StoreUnavailable("down")
    error.add_note("seen")

    def work() -> int:
        gate.wait()
        raise error

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(flights.do, "key", work, timeout=LONG_ENOUGH) for _ in range(2)]
        until(lambda: waiting_for(flights, "key") == 1)
        gate.open()
        one, other = (answer.exception() for answer in answers)
    assert one
    assert other
    one.add_note("one")
    assert other.__notes__ == ["seen"]


def test_results_are_not_cached() -> None:
    """A caller that arrives after a flight has ended starts another."""
    flights, results = SingleFlight[int](), iter((1, 2))
    assert [flights.do("key", lambda: next(results), timeout=1) for _ in range(2)] == [1, 2]


def test_failures_are_not_cached() -> None:
    """After a failed flight the next one may succeed."""
    flights = SingleFlight[int]()

    def fail() -> int:
        raise StoreUnavailable("down")

    with pytest.raises(StoreUnavailable):
        flights.do("key", fail, timeout=1)
    assert flights.do("key", lambda: 1, timeout=1) == 1


def test_other_keys_run_concurrently() -> None:
    """Work for another key runs concurrently."""
    flights, gate = SingleFlight[int](), Gate()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(flights.do, "slow", lambda: gate.wait() or 1, timeout=LONG_ENOUGH)  # type: ignore[func-returns-value]
        gate.entered.wait(LONG_ENOUGH)
        assert flights.do("quick", lambda: 2, timeout=1) == 2
        gate.open()


def test_waiting_thread_times_out() -> None:
    """A thread that reaches its timeout while waiting gets FlightTimeout; the flight continues."""
    flights, gate = SingleFlight[int](), Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.do, "key", lambda: gate.wait() or 1, timeout=LONG_ENOUGH)  # type: ignore[func-returns-value]
        gate.entered.wait(LONG_ENOUGH)
        with pytest.raises(FlightTimeout):
            flights.do("key", lambda: 2, timeout=0.01)
        gate.open()
        assert first.result() == 1


def test_thread_without_time_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread with no time left does not wait at all."""
    flights, gate, waits = SingleFlight[int](), Gate(), list[float]()
    wait = threading.Event.wait

    def watched(event: threading.Event, timeout: float | None = None) -> bool:
        if event is flights._flights["key"].ended and timeout is not None:
            waits.append(timeout)
        return wait(event, timeout)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(flights.do, "key", lambda: gate.wait() or 1, timeout=LONG_ENOUGH)  # type: ignore[func-returns-value]
        gate.entered.wait(LONG_ENOUGH)
        monkeypatch.setattr(threading.Event, "wait", watched)
        for timeout in (-1, 0, 0.01):
            with pytest.raises(FlightTimeout):
                flights.do("key", lambda: 2, timeout=timeout)
        gate.open()
    assert waits[:2] == [0, 0]
    assert 0 <= waits[2] <= 0.01


def test_timeout_error_of_the_work() -> None:
    """A TimeoutError raised by the work is an ordinary error, not the wait's."""
    flights = SingleFlight[int]()

    def fail() -> int:
        raise TimeoutError("a socket's")

    with pytest.raises(TimeoutError, match="a socket's"):
        flights.do("key", fail, timeout=1)


def test_timeout_of_the_working_thread_is_not_shared() -> None:
    """If the working thread fails because its time is over, a thread that has time left does not fail with it."""
    flights, calls = SingleFlight[int](), []

    def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            until(lambda: waiting_for(flights, "key") == 1)
            time.sleep(0.05)
            raise StoreUnavailable("no time")
        return 7

    with ThreadPoolExecutor(2) as pool:
        hasty = pool.submit(flights.do, "key", work, timeout=0.05)
        until(lambda: calls)
        patient = pool.submit(flights.do, "key", work, timeout=LONG_ENOUGH)
        assert isinstance(hasty.exception(), StoreUnavailable)
        assert patient.result() == 7


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interrupt_is_not_shared(interruption: type[BaseException]) -> None:
    """An interruption affects only the working thread: one of those that wait starts again."""
    flights, gate, leaders = SingleFlight[int](), Gate(), []

    def work() -> int:
        leaders.append(threading.get_ident())
        if len(leaders) == 1:
            gate.wait()
            raise interruption
        return 7

    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(flights.do("key", work, timeout=LONG_ENOUGH))
        except interruption as error:
            answers.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: waiting_for(flights, "key") == 7)
    gate.open()
    for thread in threads:
        thread.join(LONG_ENOUGH)
    assert sorted(answers, key=str) == sorted([interruption, *[7] * 7], key=str)


def test_work_is_never_concurrent() -> None:
    """However often they call, two threads never do the same work at the same time."""
    flights, busy, overlaps = SingleFlight[int](), threading.Lock(), []

    def work() -> int:
        if not busy.acquire(blocking=False):
            overlaps.append(1)
            return 0
        busy.release()
        return 1

    def ask() -> None:
        for _ in range(2000):
            flights.do("key", work, timeout=LONG_ENOUGH)

    assert in_threads(4, ask) == [None] * 4
    assert not overlaps


def test_child_discards_flights() -> None:
    """A forked child does not wait for work that a parent's thread began."""
    flights, gate = SingleFlight[int](), Gate()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(flights.do, "key", lambda: gate.wait() or 1, timeout=LONG_ENOUGH)  # type: ignore[func-returns-value]
        gate.entered.wait(LONG_ENOUGH)
        flights.after_fork()  # as the fork hook does
        assert flights.do("key", lambda: 2, timeout=1) == 2
        gate.open()


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no such signal on Windows")
def test_exception_of_a_signal_handler_is_not_shared() -> None:
    """An exception from the program's signal handler in the working thread does not fail those that wait."""
    flights, calls = SingleFlight[int](), []

    def interrupt(*_: object) -> None:
        raise ValueError("of the program")

    def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            until(lambda: waiting_for(flights, "key") == 4)
            signal.raise_signal(signal.SIGALRM)
        return 7

    def follow() -> int:
        until(lambda: calls)
        return flights.do("key", work, timeout=LONG_ENOUGH)

    former = signal.signal(signal.SIGALRM, functools.partial(interrupt, "with an argument"))
    try:
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(follow) for _ in range(4)]
            with pytest.raises(ValueError, match="of the program"):
                flights.do("key", work, timeout=LONG_ENOUGH)
            assert [answer.result() for answer in answers] == [7] * 4
    finally:
        signal.signal(signal.SIGALRM, former)
