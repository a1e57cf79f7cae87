"""Private keys in this process's memory: made here, or read from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvouch.algorithms import (
    CRYPTOGRAPHY,
    KEY_TYPES,
    Algorithm,
    DerSignature,
    JoseSignature,
    der_to_jose,
    elliptic_curve,
)
from keyvouch.errors import ConfigurationError

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey


@CRYPTOGRAPHY
def make_key(kind: str) -> PrivateKey:
    """Make a private key in this process's memory, of one of `KEY_TYPES`. Raises `ConfigurationError` for another."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if kind not in KEY_TYPES:
        raise ConfigurationError(f"Unknown key type {kind!r}.", hint=f"Use one of {', '.join(KEY_TYPES)}.")
    match kind.split("-"):
        case ["RSA", bits]:
            return rsa.generate_private_key(65537, int(bits))
        case ["P", _]:
            return ec.generate_private_key(elliptic_curve(kind))
    return ed25519.Ed25519PrivateKey.generate()


@CRYPTOGRAPHY
def sign_locally(private_key: PrivateKey, message: bytes, algorithm: Algorithm) -> JoseSignature:
    """Sign with a key in this process's memory; the algorithm must fit the key. A fork waits for it."""
    if algorithm.family == "ECDSA":
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

        return der_to_jose(DerSignature(private_key.sign(message, ECDSA(algorithm.hash))), algorithm)  # type: ignore[call-arg, arg-type]
    if algorithm.family == "EdDSA":
        return JoseSignature(private_key.sign(message))  # type: ignore[call-arg]
    return JoseSignature(private_key.sign(message, algorithm.padding, algorithm.hash))  # type: ignore[call-arg, arg-type]
