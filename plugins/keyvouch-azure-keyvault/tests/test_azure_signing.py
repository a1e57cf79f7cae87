"""Keys and certificates in the Key Vault simulator, opened and used through the SDK."""

from __future__ import annotations

import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from scripted_store import is_signed


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [
        ("RSA-2048", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("P-256", ("ES256",)),
        ("P-384", ("ES384",)),
        ("P-521", ("ES512",)),
    ],
)
def test_certificate_signs(vault: Vault, kind: str, algorithms: tuple[str, ...]) -> None:
    """A certificate's key signs with every algorithm of its type, and one signature is one request."""
    with keyvouch.open_signer(vault.make(f"signs-{kind}", kind)) as signer:
        before = len(vault.calls)
        for algorithm in algorithms:
            assert is_signed(signer.public_key, signer.sign(b"message", algorithm), b"message", algorithm)
        assert vault.calls[before:] == ["POST keys/sign"] * len(algorithms)
        assert signer.chain[0].subject.rfc4514_string() == f"CN=signs-{kind}"
        assert signer.exportable is False
