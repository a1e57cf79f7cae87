"""Keys and certificates in the test vault, opened and used through the SDK."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_vault import Vault


def verify(public_key: Any, signature: bytes, message: bytes, algorithm: str) -> None:
    """Raise `InvalidSignature` for a wrong one; `cryptography` alone judges."""
    chosen = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]
    if algorithm.startswith("ES"):
        half = len(signature) // 2
        r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
        public_key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(chosen))
    elif algorithm.startswith("PS"):
        public_key.verify(signature, message, padding.PSS(padding.MGF1(chosen), chosen.digest_size), chosen)
    else:
        public_key.verify(signature, message, padding.PKCS1v15(), chosen)


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
    """The key of a certificate signs all that its type can, and one signature is one request."""
    with keyvouch.open_signer(vault.make(f"signs-{kind}", kind)) as signer:
        before = len(vault.calls)
        for algorithm in algorithms:
            verify(signer.public_key, signer.sign(b"message", algorithm), b"message", algorithm)
        assert vault.calls[before:] == ["POST keys/sign"] * len(algorithms)
        assert signer.chain[0].subject.rfc4514_string() == f"CN=signs-{kind}"
        assert signer.exportable is False
