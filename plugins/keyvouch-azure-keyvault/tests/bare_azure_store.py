"""The store without the core around it, to test the errors that it raises."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from keyvouch._core import opening
from keyvouch.errors import KeyvouchError
from keyvouch.secrets import SecretResolver
from keyvouch.store import StoredKey
from keyvouch.uri import KeyUri
from keyvouch_azure_keyvault.store import KeyVaultStore

E = TypeVar("E", bound=KeyvouchError)


def parse_uri(uri: str) -> KeyUri:
    return opening.parse(uri)


@contextlib.contextmanager
def connected_store(uri: str) -> Iterator[KeyVaultStore]:
    store = KeyVaultStore(parse_uri(uri), SecretResolver())
    store.connect(timeout=10)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def opened_key(uri: str) -> Iterator[StoredKey]:
    with connected_store(uri) as store:
        key = store.open(parse_uri(uri), timeout=10)
        yield key
        key.close()


def assert_raises(kind: type[E], do: Callable[[], object]) -> E:
    """Assert that `do` raises exactly this class of error, with a hint; return the error."""
    with pytest.raises(kind) as caught:
        do()
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds
