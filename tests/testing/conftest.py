from collections.abc import Iterator

import pytest

from keyvouch.testing.authority import Authority
from testing.clients import Client


@pytest.fixture
def client(authority: Authority) -> Iterator[Client]:
    """A client that does everything right unless a test changes it."""
    with Client(authority) as client:
        yield client
