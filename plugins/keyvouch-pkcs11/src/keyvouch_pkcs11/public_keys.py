"""Public keys as PKCS#11 attributes: CKA_MODULUS, CKA_EC_PARAMS, CKA_EC_POINT."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyvouch_pkcs11 import cryptoki as ck

if TYPE_CHECKING:
    from keyvouch.algorithms import PublicKey

PUBLIC_KEY_ATTRIBUTES = (ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT, ck.CKA_EC_PARAMS, ck.CKA_EC_POINT)
PUBLIC_EXPONENT = b"\1\0\1"
"""65537, big-endian."""
# DER; `cryptography.hazmat.asn1`, which could encode it, takes a hundredth of the time of `keyvouch sign` to import.
_CURVES = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
"""The supported curves, by CKA_EC_PARAMS: an object identifier."""
ED25519_EC_PARAMS = b"\x13\x0cedwards25519"
"""CKA_EC_PARAMS of Ed25519 since PKCS#11 3.0: a PrintableString."""
_ED25519_OID = bytes.fromhex("06032b6570")
"""Some modules use RFC 8410's object identifier instead."""
_ED25519_SIZE = 32
EC_PARAMS = {f"P-{curve.key_size}": der for der, curve in _CURVES.items()}
"""CKA_EC_PARAMS by key type, as `keyvouch.algorithms.key_type` spells it."""


def public_key_from_attributes(attributes: Mapping[int, bytes]) -> PublicKey | None:
    """Build a public key from an object's attributes; None if they are incomplete or of an unsupported type."""
    with contextlib.suppress(ValueError):
        if modulus := attributes.get(ck.CKA_MODULUS):
            exponent = attributes.get(ck.CKA_PUBLIC_EXPONENT) or PUBLIC_EXPONENT
            return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
        point, parameters = attributes.get(ck.CKA_EC_POINT), attributes.get(ck.CKA_EC_PARAMS)
        if point and parameters:
            return _from_point(point, parameters)
    return None


def _from_point(point: bytes, parameters: bytes) -> PublicKey | None:
    """The standard requires a DER OCTET STRING; some modules return the bare point. So only its end is read."""
    if parameters in (ED25519_EC_PARAMS, _ED25519_OID):
        return ed25519.Ed25519PublicKey.from_public_bytes(point[-_ED25519_SIZE:])
    if curve := _CURVES.get(parameters):
        size = 1 + 2 * ((curve.key_size + 7) // 8)
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-size:])
    return None
