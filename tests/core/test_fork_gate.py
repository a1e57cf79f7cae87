"""A fork waits for native code, and native code for a fork."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from keyvouch._system import forks
from keyvouch._system.forks import ForkGate
from scripted_store import LONG_ENOUGH, until, without_coverage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


@pytest.fixture
def gate() -> ForkGate:
    return ForkGate()


@pytest.fixture(autouse=True)
def _ignore_fork_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def child_exit_status(act: Callable[[], object] = lambda: None) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def thread_inside(gate: ForkGate, act: Callable[[], object]) -> Iterator[None]:
    """Another thread that has entered the gate, and leaves it after its action."""
    entered = threading.Event()

    def call() -> None:
        with gate:
            entered.set()
            act()

    caller = threading.Thread(target=call)
    caller.start()
    assert entered.wait(LONG_ENOUGH)
    yield
    caller.join()


def test_fork_waits_for_native_calls(gate: ForkGate) -> None:
    """A fork begins when the native call has ended, and not before."""
    happened: list[str] = []

    def call() -> None:
        time.sleep(0.2)
        happened.append("called")

    with thread_inside(gate, call):
        child_exit_status()
        happened.append("forked")

    assert happened == ["called", "forked"]


def test_threads_wait_during_a_fork(gate: ForkGate) -> None:
    """A thread that arrives during a fork enters after it."""
    entered = threading.Event()

    def call() -> None:
        with gate:
            entered.set()

    caller = threading.Thread(target=call)
    with ForkGate().exclusive():  # closes them as a fork does
        caller.start()
        assert not entered.wait(0.1)
    caller.join(LONG_ENOUGH)

    assert entered.is_set()


def test_hanging_call_delays_one_fork(gate: ForkGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork is delayed, then happens; the next fork does not wait for that call again."""
    monkeypatch.setattr(forks, "_MAX_WAIT", 0.3)
    release = threading.Event()
    with thread_inside(gate, lambda: release.wait(LONG_ENOUGH)):
        with pytest.raises(TimeoutError), gate.exclusive():
            pass
        assert child_exit_status(gate.__enter__) == 0  # the child knows nothing of the parent's thread
        with gate.exclusive():
            pass
        release.set()


def test_failing_reset_does_not_stop_the_others(gate: ForkGate, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever runs before the gate, a child knows that it is a child and can enter the gates."""

    class Failing:
        def after_fork(self) -> None:
            raise AttributeError

    class Watched:
        number: int | None = None

        def after_fork(self) -> None:
            self.number = forks.process.fork_number

    items, failing = [Watched(), Watched()], Failing()
    for item in (items[0], failing, items[1]):
        forks.watch(item)
    parent = forks.process.fork_number

    def look() -> None:
        assert [item.number for item in items] == [parent + 1, parent + 1]
        assert "Failing is not usable in a forked child: AttributeError" in caplog.text
        gate.__enter__()

    assert child_exit_status(look) == 0


def test_each_fork_counts_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each fork increments the number once; a failing reset is logged with the names of its class and error."""

    class Failing:
        def after_fork(self) -> None:
            raise AttributeError

    failing = Failing()
    monkeypatch.setattr(forks, "process", forks._Process())
    monkeypatch.setattr(forks, "_watched", {failing})
    numbers = [forks.process.fork_number]
    for _ in range(2):  # in this process, as the fork hook does
        forks._after_fork_in_child()
        numbers.append(forks.process.fork_number)

    assert numbers == [0, 1, 2]
    assert caplog.messages == ["Failing is not usable in a forked child: AttributeError"] * 2


def test_gates_left_closed_by_an_interrupt(gate: ForkGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the thread that closed the gates could not open them, the next thread to enter opens them."""
    monkeypatch.setattr(forks, "_closed", True)
    monkeypatch.setattr(forks, "_closing_thread", None)
    with gate:
        assert not forks._closed


def test_gates_are_open_after_a_fork(gate: ForkGate) -> None:
    """No thread that enters later has to step back."""
    child_exit_status()
    assert not forks._closed
    with gate.exclusive():
        with gate:  # the thread that closed the gates may enter, and still closes them to the others
            pass
        assert forks._closed
    assert not forks._closed


def test_concurrent_forks_both_wait(gate: ForkGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of one fork does not let anyone in before the other has forked."""
    inside, seen = [0], list[int]()
    close = forks._close_gates

    def watched(gates: list[ForkGate]) -> bool:
        left = close(gates)
        seen.append(inside[0])
        time.sleep(0.002)
        seen.append(inside[0])
        return left

    monkeypatch.setattr(forks, "_close_gates", watched)
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            with gate:
                inside[0] += 1
                inside[0] -= 1

    caller = threading.Thread(target=call)
    forkers = [threading.Thread(target=lambda: [child_exit_status() for _ in range(10)]) for _ in range(3)]
    for thread in (caller, *forkers):
        thread.start()
    for thread in forkers:
        thread.join()
    done.set()
    caller.join()

    assert len(seen) == 60
    assert set(seen) == {0}


def test_nested_gates(gate: ForkGate) -> None:
    """A thread in one gate can enter another, or the same one again, although a fork waits for it."""
    other, happened = ForkGate(), list[str]()

    def call() -> None:
        time.sleep(0.2)  # the fork has closed the gates by now
        with other, gate:
            pass
        happened.append("called")

    with thread_inside(gate, call):
        child_exit_status()
        happened.append("forked")

    assert happened == ["called", "forked"]


def test_gate_is_reentrant_while_a_fork_waits(gate: ForkGate) -> None:
    """A thread that re-enters its own gate continues at once, and the fork waits until it has left completely."""
    happened: list[str] = []

    def call() -> None:
        until(lambda: forks._closed)
        with gate:
            happened.append("entered again")
        time.sleep(0.2)  # a fork that did not wait would be over by now
        happened.append("called")

    with thread_inside(gate, call):
        begin = time.monotonic()
        child_exit_status()
        took = time.monotonic() - begin
        happened.append("forked")

    assert happened == ["entered again", "called", "forked"]
    assert took < forks._MAX_WAIT


def test_fork_inside_a_gate(gate: ForkGate) -> None:
    """A forking thread, as in a signal handler, does not wait for itself; the child leaves no gate it did not enter."""
    begin = time.monotonic()
    with gate:
        assert child_exit_status(lambda: gate.__exit__(None, None, None)) == 0
    assert time.monotonic() - begin < forks._MAX_WAIT / 2


def test_nesting_depth_is_counted(gate: ForkGate) -> None:
    """A thread that entered three times is inside until it has left three times, and can then enter again."""
    thread = threading.get_ident()
    for _ in range(2):
        inside = []
        with gate:
            with gate:
                with gate:
                    inside.append(thread in gate.inside)
                inside.append(thread in gate.inside)
            inside.append(thread in gate.inside)
        inside.append(thread in gate.inside)
        assert inside == [True, True, True, False]


def test_child_can_fork(gate: ForkGate) -> None:
    """From any thread: nothing of its parent's fork stays closed."""

    def use() -> None:
        worked: list[int] = []

        def fork() -> None:
            with gate:
                worked.append(child_exit_status(gate.__enter__))

        other = threading.Thread(target=fork)
        other.start()
        other.join(LONG_ENOUGH)
        assert worked == [0]

    assert child_exit_status(use) == 0


_HANDLERS = """
import os, signal, sys, threading
import keyvouch
from keyvouch.algorithms import CRYPTOGRAPHY
from keyvouch._system.forks import ForkGate

def child(*_):
    if (worker := os.fork()) == 0:
        with CRYPTOGRAPHY:
            os._exit(0)
    assert os.waitpid(worker, 0)[1] == 0

if sys.argv[1] == "forks":
    signal.signal(signal.SIGALRM, child)
else:
    def interrupt(*_):
        raise InterruptedError
    signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda *_: None
parent = os.getpid()
for number in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 20 * 0.0001)
        child()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptedError:
        if os.getpid() != parent:
            os._exit(0)
signal.setitimer(signal.ITIMER_REAL, 0)
done = []

def sign():
    with CRYPTOGRAPHY:
        done.append(True)

other = threading.Thread(target=sign)
other.start()
other.join(20)
with CRYPTOGRAPHY:
    assert done
"""


@pytest.mark.parametrize("handler", ["forks", "raises"])
def test_signals_during_a_fork(handler: str) -> None:
    """A handler that forks or raises leaves the gates in a correct state."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _HANDLERS, handler]
    done = subprocess.run(command, env=without_coverage(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
