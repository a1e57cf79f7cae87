from collections.abc import Iterator

import pytest

from keyvouch.testing.authority import Authority
from keyvouch.testing.fixtures import authority
from testing.clients import Client

__all__ = ["authority"]


@pytest.fixture
def client(authority: Authority) -> Iterator[Client]:
    """A client that does everything right, until a test tells it otherwise."""
    with Client(authority) as client:
        yield client
