"""Verify signatures with only `cryptography`, and find out what is wrong with an invalid one."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

WIDTHS = {"ES256": 32, "ES384": 48, "ES512": 66}
"""Length of r and of s in bytes (RFC 7518, section 3.4)."""


def digest(name: str) -> hashes.HashAlgorithm:
    """Return the hash of a JOSE algorithm."""
    found: hashes.HashAlgorithm = getattr(hashes, f"SHA{name[2:]}")()
    return found


def verifies(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Return True if the signature is valid for this key and message, in JOSE form (RFC 7518, section 3; RFC 8037)."""
    if name in WIDTHS:
        if len(signature) != 2 * WIDTHS[name]:
            return False
        r, s = (int.from_bytes(half, "big") for half in (signature[: WIDTHS[name]], signature[WIDTHS[name] :]))
        return _verifies(public_key, utils.encode_dss_signature(r, s), message, ec.ECDSA(digest(name)))
    if name == "EdDSA":
        return _verifies(public_key, signature, message)
    scheme = pss(name, digest(name).digest_size) if name.startswith("PS") else padding.PKCS1v15()
    return _verifies(public_key, signature, message, scheme, digest(name))


def pss(name: str, salt: Any, mask: hashes.HashAlgorithm | None = None) -> padding.PSS:
    """Return the padding with this salt length, and MGF1 with the algorithm's own hash or `mask`."""
    return padding.PSS(padding.MGF1(mask or digest(name)), salt)


def has_sha1_mask(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Return True if a PSS signature would be valid with SHA-1 in its mask."""
    scheme = pss(name, padding.PSS.AUTO, hashes.SHA1())  # noqa: S303 - to detect it
    return _verifies(public_key, signature, message, scheme, digest(name))


def has_wrong_salt_length(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Return True if a PSS signature is valid except for the length of its salt."""
    if verifies(public_key, signature, message, name):
        return False
    return _verifies(public_key, signature, message, pss(name, padding.PSS.AUTO), digest(name))


def is_der_encoded(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Return True if a signature is a valid ECDSA signature in DER."""
    return _verifies(public_key, signature, message, ec.ECDSA(digest(name)))


def is_hashed_twice(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Return True if the message was hashed twice before it was signed."""
    digest_of_message = hashlib.new(digest(name).name, message, usedforsecurity=False).digest()
    return verifies(public_key, signature, digest_of_message, name)


def _verifies(public_key: Any, signature: bytes, message: bytes, *scheme: Any) -> bool:
    try:
        public_key.verify(signature, message, *scheme)
    except (InvalidSignature, ValueError):
        return False
    return True
