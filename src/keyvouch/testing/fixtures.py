"""Fixtures for pytest: `from keyvouch.testing.fixtures import authority, signer`.

Alternatively, name this module in `pytest_plugins`.
"""

import functools
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keyvouch._core.signer import Signer
from keyvouch.testing.authority import Authority
from keyvouch.testing.throwaway import throwaway_signer


@pytest.fixture
def authority() -> Iterator[Authority]:
    """A running development authority for one test; takes about 10 milliseconds to start."""
    with Authority(signing_key=_signing_key()) as running:
        yield running


@pytest.fixture
def signer() -> Iterator[Signer]:
    """A signer with an RSA-2048 key and certificate that exist only for the test: no file, no server."""
    with throwaway_signer() as opened:
        yield opened


@functools.cache
def _signing_key() -> rsa.RSAPrivateKey:
    # Generating it can take longer than a test, and it need not be secret.
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
