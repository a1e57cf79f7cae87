"""Signing with only `cryptography`, for comparison with keyvouch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

from keyvouch.algorithms import Algorithm, der_to_jose

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey


def make_peer(key: PrivateKey, algorithm: Algorithm) -> Callable[[bytes], bytes]:
    """Return a function that calls the key's own `sign`, and converts ECDSA signatures to JOSE form."""
    sign: Callable[..., Any] = key.sign
    if algorithm.family == "EdDSA":
        return sign
    if algorithm.family == "ECDSA":
        scheme = ECDSA(algorithm.hash)
        return lambda message: der_to_jose(sign(message, scheme), algorithm)
    padding, hash_ = algorithm.padding, algorithm.hash
    return lambda message: sign(message, padding, hash_)
