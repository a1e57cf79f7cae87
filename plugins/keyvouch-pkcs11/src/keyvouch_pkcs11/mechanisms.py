"""Map a JOSE algorithm to PKCS#11 mechanisms: hash and sign on the token, or sign a hash computed here.

Tokens differ in the mechanisms they have, and some support more than they list, so the right one is found by trying,
once for each key.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable

import msgspec

from keyvouch.algorithms import Algorithm
from keyvouch_pkcs11.cryptoki import Mechanism, PssParameters

_RSA_PKCS, _RSA_PSS, _ECDSA, _EDDSA = 0x01, 0x0D, 0x1041, 0x1057
_HASH_AND_SIGN = {
    "RS256": 0x40,
    "RS384": 0x41,
    "RS512": 0x42,
    "PS256": 0x43,
    "PS384": 0x44,
    "PS512": 0x45,
    "ES256": 0x1044,
    "ES384": 0x1045,
    "ES512": 0x1046,
}
"""The mechanism that hashes on the token, such as CKM_SHA256_RSA_PKCS, by JOSE algorithm."""
_HASHES = {"sha256": (0x250, 2, 32), "sha384": (0x260, 3, 48), "sha512": (0x270, 4, 64)}
"""For each hash: its mechanism, its mask generation function (CKG_MGF1_...), and its digest's size in bytes."""
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""The DER prefix of the digest in PKCS#1 v1.5 (RFC 8017, section 9.2, note 1)."""


class SigningMethod(msgspec.Struct, frozen=True):
    """A mechanism, and how the message is prepared for it."""

    mechanism: Mechanism
    address: int
    """The mechanism's address, for C_SignInit."""
    prepare: Callable[[bytes], bytes]


def signing_methods(algorithm: Algorithm) -> list[SigningMethod]:
    """Return the methods of signing with this algorithm, the most widely supported first."""
    if algorithm.family == "EdDSA":
        return [_method(_EDDSA, None, bytes)]
    digest = _hash_function(algorithm.hash_name)
    on_token = _HASH_AND_SIGN[algorithm.name]
    if algorithm.family == "ECDSA":
        return [_method(_ECDSA, None, digest), _method(on_token, None, bytes)]
    if algorithm.family == "RSA-PSS":
        parameters = PssParameters(*_HASHES[algorithm.hash_name])
        return [_method(_RSA_PSS, parameters, digest), _method(on_token, parameters, bytes)]
    prefix = _DIGEST_INFO[algorithm.hash_name]
    return [_method(_RSA_PKCS, None, lambda message: prefix + digest(message)), _method(on_token, None, bytes)]


def _hash_function(name: str) -> Callable[[bytes], bytes]:
    copy = hashlib.new(name).copy  # copying is faster than making a new object by name

    def digest(message: bytes) -> bytes:
        state = copy()
        state.update(message)
        return state.digest()

    return digest


def _method(mechanism_type: int, parameters: PssParameters | None, prepare: Callable[[bytes], bytes]) -> SigningMethod:
    mechanism = Mechanism(mechanism_type, parameters)
    return SigningMethod(mechanism, ctypes.addressof(mechanism), prepare)
