"""A fork waits for native code, and native code for a fork."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from keyvouch import forks
from keyvouch.forks import ForkGate
from scripted_store import LONG_ENOUGH

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


@pytest.fixture
def gate() -> ForkGate:
    return ForkGate()


@pytest.fixture(autouse=True)
def _forks_are_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def status_of_child(act: Callable[[], object] = lambda: None) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_fork_waits_for_who_is_inside(gate: ForkGate) -> None:
    """It begins when the native call has ended, and not before."""
    entered, happened = threading.Event(), list[str]()

    def call() -> None:
        with gate:
            entered.set()
            time.sleep(0.2)
            happened.append("called")

    caller = threading.Thread(target=call)
    caller.start()
    assert entered.wait(LONG_ENOUGH)
    status_of_child()
    happened.append("forked")
    caller.join()

    assert happened == ["called", "forked"]


def test_nobody_enters_during_a_fork(gate: ForkGate) -> None:
    """Who comes while a fork waits goes in after it."""
    gate.before_fork()
    entered = threading.Event()

    def call() -> None:
        with gate:
            entered.set()

    caller = threading.Thread(target=call)
    caller.start()
    assert not entered.wait(0.1)
    gate.after_fork_in_parent()
    caller.join(LONG_ENOUGH)

    assert entered.is_set()


def test_call_that_does_not_end_holds_up_a_fork_for_a_while(gate: ForkGate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork is late then, and happens."""
    monkeypatch.setattr(forks, "_FORK_WAITS", 0.05)
    release, entered = threading.Event(), threading.Event()

    def call() -> None:
        with gate:
            entered.set()
            release.wait(LONG_ENOUGH)

    caller = threading.Thread(target=call)
    caller.start()
    assert entered.wait(LONG_ENOUGH)
    assert status_of_child(gate.__enter__) == 0  # the child knows nothing of the parent's thread
    release.set()
    caller.join()


def test_two_forks_at_once_wait_both(gate: ForkGate) -> None:
    """The end of one lets nobody in before the other has forked."""
    inside, seen = [0], list[int]()

    class Watched(ForkGate):
        def before_fork(self) -> None:
            super().before_fork()
            seen.append(inside[0])
            time.sleep(0.002)
            seen.append(inside[0])

    watched, done = Watched(), threading.Event()

    def call() -> None:
        while not done.is_set():
            with watched:
                inside[0] += 1
                inside[0] -= 1

    caller = threading.Thread(target=call)
    forkers = [threading.Thread(target=lambda: [status_of_child() for _ in range(10)]) for _ in range(3)]
    for thread in (caller, *forkers):
        thread.start()
    for thread in forkers:
        thread.join()
    done.set()
    caller.join()

    assert len(seen) == 60
    assert set(seen) == {0}
