"""Registering faulty stores: each is a `MemoryStore` with one fault, and names the test of the kit that must fail."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from cryptography import x509

from keyvouch.store import KeyUri, StoredKey
from testing.conformance.memory_store import MemoryKey, MemoryStore, Server


class Fault(NamedTuple):
    """A store, and the test that must fail for it."""

    store: type[MemoryStore]
    caught_by: str


FAULTS: dict[str, Fault] = {}


def caught_by(test: str) -> Any:
    """Register a faulty store, or a faulty key in an otherwise correct store."""

    def enter(kind: type[Any]) -> type[Any]:
        FAULTS[kind.__name__] = Fault(with_keys(kind) if issubclass(kind, MemoryKey) else kind, test)
        return kind

    return enter


def with_keys(kind: type[MemoryKey]) -> type[MemoryStore]:
    """The correct store, with keys of this class."""

    class Store(MemoryStore):
        def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
            found = super().open(uri, certificate, timeout=timeout)
            found.__class__ = kind
            return found

    return Store


def wait_out(server: Server) -> None:
    """Wait until the server answers, however long that takes."""
    while server.stalled:
        time.sleep(0.01)
