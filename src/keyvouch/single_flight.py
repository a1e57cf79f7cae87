"""One thread does a piece of work, the others that want the same wait for it and share what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from keyvouch import forks

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.ended = threading.Event()
        self.results: list[T] = []
        self.error: Exception | None = None


class SingleFlight(Generic[T]):
    """Work by key. Nothing is remembered: who comes after the end of a flight begins another."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Forget the flights of a parent's threads."""
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def do(self, key: Hashable, work: Callable[[], T], *, timeout: float) -> T:
        """Return what `work` gives, called by this thread or by the one that was first with the same key.

        All get the same error where it fails. Raises TimeoutError where another's work lasts longer than `timeout`
        seconds; this thread's own work must see to its time itself.
        """
        end = time.monotonic() + timeout
        while True:
            with self._lock:
                flight = self._flights.get(key)
                if leads := flight is None:
                    flight = self._flights[key] = _Flight()
            if leads:
                return self._lead(key, flight, work)
            if not flight.ended.wait(max(0.0, end - time.monotonic())):
                raise TimeoutError
            if flight.error is not None:
                raise flight.error
            if flight.results:
                return flight.results[0]
            # Its thread was interrupted: one of those who waited begins again.

    def _lead(self, key: Hashable, flight: _Flight[T], work: Callable[[], T]) -> T:
        try:
            flight.results.append(work())
        except Exception as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                self._flights.pop(key, None)
            flight.ended.set()
        return flight.results[0]
