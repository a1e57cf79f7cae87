"""Fixtures for pytest: `from keyvouch.testing.fixtures import authority`, or name this module in `pytest_plugins`."""

import functools
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keyvouch.testing.authority import Authority


@pytest.fixture
def authority() -> Iterator[Authority]:
    """A development authority of the test's own, running; it costs some 10 milliseconds."""
    with Authority(signing_key=_signing_key()) as running:
        yield running


@functools.cache
def _signing_key() -> rsa.RSAPrivateKey:
    # Making it can take longer than a test, and nothing is secret about it.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
