"""One thread does a piece of work; other threads that want the same wait for it and share the result."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from keyvouch._system import forks
from keyvouch._system.in_use import InUse
from keyvouch._system.signal_handlers import is_from_signal_handler

T = TypeVar("T")

_CHECK_INTERVAL = 1.0
"""Seconds between checks whether the working thread was interrupted before it could end its flight."""
_TIMEOUT_MARGIN = 0.1
"""The last fraction of a thread's time, in which a failure is attributed to its timeout."""


class FlightTimeout(Exception):
    """Another thread's work takes longer than this one waits. Not a TimeoutError, which the work itself may raise."""


class _Flight(Generic[T]):
    def __init__(self, timeout: float) -> None:
        self.ended = threading.Event()
        self.results: list[T] = []
        self.error: Exception | None = None
        self.timed_out = False
        """True if it failed when its own thread's time was up."""
        self.work = InUse()
        """Over once its thread's frame is gone, even if that was interrupted before it could clean up."""
        self._timeout = timeout
        self._began = time.monotonic()

    def wait(self, end: float) -> bool:
        """Wait until `end`; return True if the work has ended by then, or its thread was interrupted."""
        while not self.work.has_ended:
            left = end - time.monotonic()
            if self.ended.wait(max(0.0, min(left, _CHECK_INTERVAL))):
                return True
            if left <= 0:
                return False
        return True

    def run(self, work: Callable[[], T]) -> T:
        try:
            self.results.append(work())
        except Exception as error:
            if not is_from_signal_handler(error):  # such an error concerns only this thread
                self.timed_out = time.monotonic() - self._began >= self._timeout * (1 - _TIMEOUT_MARGIN)
                self.error = error
            raise
        return self.results[0]


class SingleFlight(Generic[T]):
    """Work by key. Results are not kept: a caller that arrives after the end of a flight begins another."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Discard the flights of a parent's threads."""
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def do(self, key: Hashable, work: Callable[[], T], *, timeout: float) -> T:
        """Return the result of `work`, called by this thread or by the first one with the same key.

        If the work fails, all callers get the error, each its own copy. But if it failed because the working thread's
        time was up, one of the callers with time left begins again. Raises `FlightTimeout` if another thread's work
        takes longer than `timeout` seconds; this thread's own work must limit its time itself.
        """
        end = time.monotonic() + timeout
        while True:
            own = _Flight[T](end - time.monotonic())
            token = own.work.token
            own.work.end()
            try:
                with self._lock:
                    flight = self._flights.get(key, own)
                    if flight.work.has_ended:
                        flight = own
                    self._flights[key] = flight
                if flight is own:
                    return own.run(work)
            finally:  # also if this thread was interrupted
                with self._lock:
                    if self._flights.get(key) is own:
                        del self._flights[key]
                own.ended.set()
                del token
            if not flight.wait(end):
                raise FlightTimeout
            if flight.results:
                return flight.results[0]
            if flight.error is not None and not (flight.timed_out and time.monotonic() < end):
                raise _copy_of(flight.error)
            # Its thread was interrupted, or had less time than this one: one of the waiting threads begins again.


def _copy_of(error: Exception) -> Exception:
    """Return a copy, so that threads do not write tracebacks and details into each other's errors."""
    try:
        duplicate = copy.copy(error)
        if notes := getattr(error, "__notes__", ()):  # the copy shares the list
            duplicate.__notes__ = list(notes)
        duplicate.__cause__, duplicate.__context__ = error.__cause__, error.__context__
        duplicate.__suppress_context__ = error.__suppress_context__
    except Exception:  # noqa: BLE001 - not every exception can be copied or changed
        return error
    return duplicate if type(duplicate) is type(error) else error
