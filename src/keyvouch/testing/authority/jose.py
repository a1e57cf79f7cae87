"""The parts of JWS (RFC 7515, 7518, 8037) needed here: strict decoding, and verifying with `cryptography`."""

import base64
import json
from collections.abc import Callable
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}

# The curve of each algorithm, and the number of bytes of r and of s (RFC 7518, section 3.4).
CURVES: dict[str, tuple[type[ec.EllipticCurve], int]] = {
    "ES256": (ec.SECP256R1, 32),
    "ES384": (ec.SECP384R1, 48),
    "ES512": (ec.SECP521R1, 66),
}

ALGORITHMS = frozenset({f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in HASHES} | {"EdDSA"})
"""All algorithms that can be verified here; the authority chooses which of them it accepts."""


def to_base64url(data: bytes) -> str:
    """Return the data as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """Decode base64url. Raises ValueError for padding, invalid characters and extra bits."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # The decoder skips invalid characters; encoding again detects them.
    if to_base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def read_object(data: bytes) -> dict[str, object]:
    """Parse a JSON object. Raises ValueError for anything else, duplicate names, NaN and Infinity."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_reject_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - an invalid value, whatever its source
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate name")
    return members


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def fits(algorithm: str, key: object) -> bool:
    """Return True if a public key has the type and curve that the algorithm requires."""
    if algorithm in CURVES:
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, CURVES[algorithm][0])
    return isinstance(key, ed25519.Ed25519PublicKey if algorithm == "EdDSA" else rsa.RSAPublicKey)


def verifies(algorithm: str, key: object, signature: bytes, message: bytes) -> bool:
    """Return True if the signature, in JOSE form, is valid for that key; the key must fit the algorithm."""
    try:
        _verifier(algorithm, key, signature)(message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _verifier(algorithm: str, key: object, signature: bytes) -> Callable[[bytes], None]:
    if isinstance(key, rsa.RSAPublicKey):
        used = HASHES[algorithm[2:]]
        return lambda message: key.verify(signature, message, _padding(algorithm, used), used)
    if isinstance(key, ec.EllipticCurvePublicKey):
        der = _der(algorithm, signature)
        return lambda message: key.verify(der, message, ec.ECDSA(HASHES[algorithm[2:]]))
    if isinstance(key, ed25519.Ed25519PublicKey):
        return lambda message: key.verify(signature, message)
    raise ValueError("unsupported type of key")


def _padding(algorithm: str, used: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if algorithm.startswith("RS"):
        return padding.PKCS1v15()
    # RFC 7518, section 3.5: the salt is as long as the hash. A longer one, OpenSSL's default, does not verify.
    return padding.PSS(padding.MGF1(used), used.digest_size)


def _der(algorithm: str, signature: bytes) -> bytes:
    width = CURVES[algorithm][1]
    if len(signature) != 2 * width:
        raise ValueError("r and s must have the width of the curve")
    halves = (int.from_bytes(half, "big") for half in (signature[:width], signature[width:]))
    return utils.encode_dss_signature(*halves)
