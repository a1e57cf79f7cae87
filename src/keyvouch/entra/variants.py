"""Variants of a client, each created only once, however many threads ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from keyvouch._system.single_flight import SingleFlight


class Closable(Protocol):
    """An object with a `close` method."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Variants(Generic[C]):
    """The variants created so far. Safe under threads and fork."""

    def __init__(self) -> None:
        self._made: dict[Hashable, C] = {}
        self._flights = SingleFlight[C]()

    def find(self, which: Hashable, make: Callable[[], C], *, timeout: float) -> C:
        """Return the variant for this key, creating it if needed. Raises `FlightTimeout`, and what `make` raises."""

        def find_or_make() -> C:
            if which not in self._made:
                self._made[which] = make()
            return self._made[which]

        found = self._made.get(which)
        return found if found is not None else self._flights.do(which, find_or_make, timeout=timeout)

    def close(self) -> None:
        """Close all of them."""
        with contextlib.suppress(KeyError):  # none left
            while True:
                self._made.popitem()[1].close()
