"""Judging signatures with `cryptography` alone, and telling what a wrong one is."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

WIDTHS = {"ES256": 32, "ES384": 48, "ES512": 66}
"""Bytes of r, and of s (RFC 7518, section 3.4)."""


def digest(name: str) -> hashes.HashAlgorithm:
    """Return the hash of a JOSE algorithm."""
    found: hashes.HashAlgorithm = getattr(hashes, f"SHA{name[2:]}")()
    return found


def is_good(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Tell whether it is this key's signature over the message, in JOSE form (RFC 7518, section 3; RFC 8037)."""
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
    """Return the padding with this salt, and a mask of the algorithm's own hash or another."""
    return padding.PSS(padding.MGF1(mask or digest(name)), salt)


def has_mask_of_sha1(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Tell whether a PSS signature would be good with SHA-1 in its mask."""
    scheme = pss(name, padding.PSS.AUTO, hashes.SHA1())  # noqa: S303 - it is looked for
    return _verifies(public_key, signature, message, scheme, digest(name))


def has_other_salt(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Tell whether a PSS signature is good, but for the length of its salt."""
    if is_good(public_key, signature, message, name):
        return False
    return _verifies(public_key, signature, message, pss(name, padding.PSS.AUTO), digest(name))


def is_der(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Tell whether an ECDSA signature is the DER form of a good one."""
    return _verifies(public_key, signature, message, ec.ECDSA(digest(name)))


def is_over_the_hash(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Tell whether the message was hashed once more before it was signed."""
    again = hashlib.new(digest(name).name, message, usedforsecurity=False).digest()
    return is_good(public_key, signature, again, name)


def _verifies(public_key: Any, signature: bytes, message: bytes, *how: Any) -> bool:
    try:
        public_key.verify(signature, message, *how)
    except (InvalidSignature, ValueError):
        return False
    return True
