"""Reading private keys as JWK or JWK Set (RFC 7517, RFC 7518 section 6, RFC 8037)."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyvouch.algorithms import CRYPTOGRAPHY, LONGEST_EXPONENT, elliptic_curve
from keyvouch.certificate import load_certificates, parsing
from keyvouch.errors import KeyUnusable
from keyvouch.stores import limits, private_keys
from keyvouch.stores.key_entries import FileContents, FoundKey

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+=*")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_CRT = ("p", "q", "dp", "dq", "qi")


def is_jwk(data: bytes) -> bool:
    """Return True if this is a JWK or a JWK Set, with or without private keys."""
    document = _parse(data)
    return isinstance(document, dict) and (isinstance(document.get("kty"), str) or _is_set(document))


def _is_set(document: Mapping[str, Any]) -> bool:
    keys = document.get("keys")
    if not isinstance(keys, list) or not keys:
        return False
    return all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys)


def _parse(data: bytes) -> Any:
    if not data.lstrip().startswith(b"{"):
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@CRYPTOGRAPHY
def read(data: bytes, path: Path) -> FileContents:
    """Return the private keys of a JWK or JWK Set, and the certificates in `x5c`; `path` is for error messages.

    Raises `KeyUnusable` if there is no private key, or one cannot be read.
    """
    document = _parse(data)
    jwks = [jwk for jwk in (document["keys"] if _is_set(document) else [document]) if jwk.get("use") != "enc"]
    private = [jwk for jwk in jwks if "d" in jwk]
    if not private:
        what = "a symmetric key" if any(jwk["kty"] == "oct" for jwk in jwks) else "only a public key"
        raise KeyUnusable(
            f"No private key found in {path}: the JWK is {what}.", hint='Specify a JWK with a private key, "d".'
        )
    limits.require_small_keys(path, (_size(jwk) for jwk in private))
    keys = [FoundKey((), _load_key(jwk, path)) for jwk in private]
    return FileContents(keys, [each for jwk in private for each in _certificates(jwk, path)])


def _size(jwk: Mapping[str, Any]) -> int:
    """Return the number of bytes of a key's numbers, without its certificates."""
    return sum(len(str(value)) for name, value in jwk.items() if name in ("n", "e", "d", "x", "y", *_CRT)) * 3 // 4


def _load_key(jwk: Mapping[str, Any], path: Path) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        with parsing():
            match jwk["kty"]:
                case "RSA":
                    return _load_rsa(jwk)
                case "EC":
                    return _load_ec(jwk)
                case "OKP":
                    return _load_ed25519(jwk)
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = str(error) if isinstance(error, _JwkError) else "its numbers do not form a key"
        raise KeyUnusable(f"The JWK in {path} cannot be read: {reason}.", hint="Export the key again.") from None
    raise KeyUnusable(f"The JWK in {path} has an unsupported type.", hint="Use RSA, P-256, P-384, P-521 or Ed25519.")


class _JwkError(ValueError):
    """A member is missing or invalid; the text does not contain its value."""


def _bytes(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if value is None:
        raise _JwkError(f'missing "{name}"')
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        raise _JwkError(f'"{name}" is not base64url')
    digits = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64(digits + "=" * (-len(digits) % 4))
    except binascii.Error:
        raise _JwkError(f'"{name}" is not base64url') from None


def _number(jwk: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_bytes(jwk, name), "big")


def _load_rsa(jwk: Mapping[str, Any]) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    if "oth" in jwk:
        raise _JwkError("RSA keys with more than two primes are not supported")
    n, e, d = (_number(jwk, name) for name in ("n", "e", "d"))
    if e.bit_length() > LONGEST_EXPONENT or not 0 < d < n:
        raise _JwkError('"e" or "d" is too large')
    if "p" in jwk:
        p, q, dp, dq, qi = (_number(jwk, name) for name in _CRT)
    else:  # RFC 7518, section 6.3.2, requires only d
        p, q = private_keys.recover_primes(n, e, d)
        dp, dq, qi = d % (p - 1), d % (q - 1), pow(q, -1, p)
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)).private_key()


def _load_ec(jwk: Mapping[str, Any]) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = str(jwk.get("crv"))
    if curve not in ("P-256", "P-384", "P-521"):
        raise _JwkError("its curve is not P-256, P-384 or P-521")
    d, x, y = (_number(jwk, name) for name in ("d", "x", "y"))
    return ec.EllipticCurvePrivateNumbers(d, ec.EllipticCurvePublicNumbers(x, y, elliptic_curve(curve))).private_key()


def _load_ed25519(jwk: Mapping[str, Any]) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if jwk.get("crv") != "Ed25519":
        raise _JwkError("its curve is not Ed25519")
    key = Ed25519PrivateKey.from_private_bytes(_bytes(jwk, "d"))
    if key.public_key().public_bytes_raw() != _bytes(jwk, "x"):
        raise ValueError("the public key is another key's")
    return key


def _certificates(jwk: Mapping[str, Any], path: Path) -> list[Certificate]:
    """Return the certificates in `x5c` (RFC 7517, section 4.7)."""
    chain = jwk.get("x5c", [])
    if not isinstance(chain, list) or not all(isinstance(each, str) and _BASE64.fullmatch(each) for each in chain):
        raise KeyUnusable(
            f'The JWK in {path} cannot be read: "x5c" is not a list of base64.', hint="Export the key again."
        )
    blocks = (f"-----BEGIN CERTIFICATE-----\n{each}\n-----END CERTIFICATE-----\n" for each in chain)
    return load_certificates("".join(blocks).encode(), path) if chain else []
