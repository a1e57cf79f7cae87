"""A client's variants for other tenants and for continuous access evaluation, each created only once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from keyvouch._system.single_flight import SingleFlight


class Closable(Protocol):
    """An object with a `close` method."""

    def close(self) -> None: ...


Client = TypeVar("Client", bound=Closable)


class ClientVariants(Generic[Client]):
    """The variants created so far. Safe under threads and fork."""

    def __init__(self) -> None:
        self._created: dict[Hashable, Client] = {}
        self._flights = SingleFlight[Client]()

    def get_or_create(self, variant: Hashable, create: Callable[[], Client], *, timeout: float) -> Client:
        """Return this variant, created on first use. Raises `FlightTimeout`, and what `create` raises."""

        def find_or_create() -> Client:
            if variant not in self._created:
                self._created[variant] = create()
            return self._created[variant]

        found = self._created.get(variant)
        return found if found is not None else self._flights.do(variant, find_or_create, timeout=timeout)

    def close(self) -> None:
        """Close all variants."""
        with contextlib.suppress(KeyError):  # none left
            while True:
                self._created.popitem()[1].close()
