"""A store's peer, obtained as a benchmark does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from keyvouch._core import opening, registry
from keyvouch.algorithms import ALGORITHMS
from keyvouch.secrets import SecretResolver
from keyvouch.store import OffersPeer, StoredKey


class Compared(NamedTuple):
    """A connected store, an open key, and the peer that signs with the same key."""

    store: Any
    key: StoredKey
    peer: Callable[[bytes], bytes]


@contextlib.contextmanager
def compared(uri: str, algorithm: str) -> Iterator[Compared]:
    """Open a key without the core around its store, and get its peer; close both."""
    parsed = opening.parse(uri)
    store = registry.store_class(parsed.scheme)(parsed, SecretResolver())
    store.connect(timeout=10)
    try:
        key = store.open(parsed, timeout=10)
        assert isinstance(store, OffersPeer)
        try:
            yield Compared(store, key, store.peer(key.uri, ALGORITHMS[algorithm]))
        finally:
            key.close()
    finally:
        store.close()
