"""Map a JOSE algorithm to PKCS#11 mechanisms: hash and sign on the token, or sign a hash computed here.

Tokens differ in the mechanisms they have, and some support more than they list, so the right one is found by trying,
once for each key.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from typing import NamedTuple

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
_HASHES = {"sha256": (0x250, 2, 32), "sha384": (0x260, 3, 48), "sha512": (0x270, 4, 64)}
"""For each hash: its mechanism, its mask generation function (CKG_MGF1_...), and its digest's size in bytes."""
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""The DER prefix of the digest in PKCS#1 v1.5 (RFC 8017, section 9.2, note 1)."""


class Way(NamedTuple):
    """A method of signing: the mechanism, and how the message is prepared for the token."""

    mechanism: Mechanism
    address: int
    """The mechanism's address, for C_SignInit."""
    prepare: Callable[[bytes], bytes]


def ways(algorithm: Algorithm) -> list[Way]:
    """Return the methods of signing with this algorithm, the most widely supported first."""
    if algorithm.family == "EdDSA":
        return [_way(_EDDSA, None, bytes)]
    name = algorithm.hash_name
    hashed = hashlib.new(name).copy

    def digest(message: bytes) -> bytes:
        made = hashed()
        made.update(message)
        return made.digest()

    if algorithm.family == "ECDSA":
        return [_way(_ECDSA, None, digest), _way(_HASH_AND_SIGN[algorithm.name], None, bytes)]
    if algorithm.family == "RSA-PSS":
        parameters = PssParameters(*_HASHES[name])
        return [_way(_RSA_PSS, parameters, digest), _way(_HASH_AND_SIGN[algorithm.name], parameters, bytes)]
    prefix = _DIGEST_INFO[name]
    return [
        _way(_RSA_PKCS, None, lambda message: prefix + digest(message)),
        _way(_HASH_AND_SIGN[algorithm.name], None, bytes),
    ]


def _way(number: int, parameters: PssParameters | None, prepare: Callable[[bytes], bytes]) -> Way:
    mechanism = Mechanism(number, parameters)
    return Way(mechanism, ctypes.addressof(mechanism), prepare)
