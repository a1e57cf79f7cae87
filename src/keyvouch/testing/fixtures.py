"""Fixtures for pytest: `from keyvouch.testing.fixtures import authority, key_vault, signer`.

Or name this module in `pytest_plugins`.
"""

import functools
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keyvouch.signer import Signer
from keyvouch.testing.authority import Authority
from keyvouch.testing.key_vault import KeyVault
from keyvouch.testing.throwaway import throwaway_signer


@pytest.fixture
def authority() -> Iterator[Authority]:
    """A development authority of the test's own, running; it costs some 10 milliseconds."""
    with Authority(signing_key=_signing_key()) as running:
        yield running


@pytest.fixture
def key_vault(authority: Authority) -> Iterator[KeyVault]:
    """A test vault of the test's own, that takes the tokens of its `authority`; import that fixture too."""
    with KeyVault(authority) as running:
        yield running


@pytest.fixture
def signer() -> Iterator[Signer]:
    """A signer with an RSA-2048 key and certificate that are forgotten at the end: no file, no server."""
    with throwaway_signer() as made:
        yield made


@functools.cache
def _signing_key() -> rsa.RSAPrivateKey:
    # Making it can take longer than a test, and nothing is secret about it.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
