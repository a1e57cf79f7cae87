"""Loading one private key, also in encodings of older programs that `cryptography` refuses."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keyvouch._formats import asn1, pss
from keyvouch._formats.asn1 import Element
from keyvouch.algorithms import CRYPTOGRAPHY, ELLIPTIC_CURVES, LARGEST_RSA, LONGEST_EXPONENT, elliptic_curve
from keyvouch.certificate import parsing
from keyvouch.errors import KeyUnusable

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey

_RSA, _RSA_PSS = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01010a")
_EC, _ED25519 = bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2b6570")
_CURVES = {
    bytes.fromhex("2a8648ce3d030107"): "P-256",
    bytes.fromhex("2b81040022"): "P-384",
    bytes.fromhex("2b81040023"): "P-521",
}
_PRIMES = {
    "P-256": 2**256 - 2**224 + 2**192 + 2**96 - 1,
    "P-384": 2**384 - 2**128 - 2**96 + 2**32 - 1,
    "P-521": 2**521 - 1,
}
"""The primes of the fields of these curves (SEC 2), which identify a curve given by its parameters."""
_OTHERS = {
    "1.2.840.10040.4.1": "DSA",
    "1.2.840.113549.1.3.1": "Diffie-Hellman",
    "1.3.101.110": "X25519",
    "1.3.101.111": "X448",
    "1.3.101.113": "Ed448",
    "1.2.643.7.1.1.1.1": "GOST R 34.10-2012",
    "1.2.643.2.2.19": "GOST R 34.10-2001",
    "1.2.156.10197.1.301": "SM2",
    "2.16.840.1.101.3.4.3.17": "ML-DSA-44",
    "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
    "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
    "1.3.132.0.10": "secp256k1",
    "1.3.36.3.3.2.8.1.1.7": "brainpoolP256r1",
    "1.3.36.3.3.2.8.1.1.11": "brainpoolP384r1",
    "1.3.36.3.3.2.8.1.1.13": "brainpoolP512r1",
}
"""Algorithms and curves without a JOSE signature algorithm that is supported here."""
_USE = "Use RSA, P-256, P-384, P-521 or Ed25519."
_PUBLIC_KEY = b"\xa1"
"""The tag of the public key in an elliptic-curve key (RFC 5915, section 3)."""
_ED25519_SIZE = 32
_RSA_INTEGERS = 9
"""Version, n, e, d, p, q, and three values derived from them (RFC 8017, appendix A.1.2)."""
_DSA_INTEGERS = 6
_MOST_TRIES = 40
"""How often to try to factor an RSA modulus."""


@CRYPTOGRAPHY
def load(der: bytes, source: str, rewrite: str) -> PrivateKey:
    """Return an unencrypted private key in PKCS#8, or in the older formats for RSA and elliptic curves.

    Raises `KeyUnusable`; `source` names the key in its message, and `rewrite` is a command for its hint.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        with parsing():
            return _restrict(load_der_private_key(der, None), der)  # type: ignore[arg-type]  # the caller refuses other kinds
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        refusal = error
    try:
        tree = asn1.parse(der)
        if unsupported := _unsupported_kind(tree):
            raise KeyUnusable(f"{source} is a {unsupported} key, which cannot be used.", hint=_USE) from refusal
        with parsing():
            return _restrict(_rebuild(tree), der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyUnusable(
            f"{source} cannot be read: {_first_sentence(refusal)}.",
            hint=f"If OpenSSL can read it, rewrite it: {rewrite}",
        ) from refusal


def _restrict(key: PrivateKey, der: bytes) -> PrivateKey:
    """Return an RSASSA-PSS key with its restrictions; any other key as it is. Raises `KeyUnusable`, ValueError."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if not isinstance(key, RSAPrivateKey) or not pss.is_pss(algorithm := asn1.parse(der).child(1)):
        return key
    from keyvouch.stores.pss_keys import PssPrivateKey

    return PssPrivateKey(key, algorithm)


def _rebuild(tree: Element) -> PrivateKey:
    """Return the key, from the numbers in it. Raises ValueError."""
    match tree.children:
        case (_, Element(tag=asn1.SEQUENCE, children=(Element(content=oid), *parameters)), Element(content=key), *_):
            return _rebuild_pkcs8(oid, parameters, key)
        case (_, Element(tag=asn1.OCTET_STRING, content=value), *rest):
            return _elliptic_curve_key(value, rest, None)
    return _rsa_key(tree)


def _rebuild_pkcs8(oid: bytes, parameters: Sequence[Element], key: bytes) -> PrivateKey:
    if oid in {_RSA, _RSA_PSS}:
        return _rsa_key(asn1.parse(key))
    if oid == _EC:
        _, value, *rest = asn1.parse(key).children
        return _elliptic_curve_key(value.content, rest, _curve(parameters))
    if oid == _ED25519:
        return _ed25519_key(key)
    raise ValueError("unknown algorithm")


def _rsa_key(tree: Element) -> PrivateKey:
    """Return an RSA key whose integers lack a leading zero, or that has no primes or wrong values derived from them."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    numbers = [int.from_bytes(each.content, "big") for each in tree.children[:_RSA_INTEGERS]]
    _, modulus, exponent, private, first, second, *_ = numbers
    if first * second != modulus:
        first, second = recover_primes(modulus, exponent, private)
    return rsa.RSAPrivateNumbers(
        first,
        second,
        private,
        rsa.rsa_crt_dmp1(private, first),
        rsa.rsa_crt_dmq1(private, second),
        rsa.rsa_crt_iqmp(first, second),
        rsa.RSAPublicNumbers(exponent, modulus),
    ).private_key()


def recover_primes(modulus: int, exponent: int, private: int) -> tuple[int, int]:
    """Return the primes of an RSA modulus, larger one first (NIST SP 800-56B, appendix C.1). Raises ValueError.

    Whoever wrote the numbers must not decide how long this takes: primes and their powers, for which no try succeeds,
    are refused first. For any other modulus each try succeeds with a probability of at least one half.
    """
    is_small = modulus.bit_length() <= LARGEST_RSA and exponent.bit_length() <= LONGEST_EXPONENT
    if not (is_small and 0 < private < modulus):
        raise ValueError("not an RSA key")
    odd = exponent * private - 1
    if math.gcd(odd, modulus) != 1 or pow(2, modulus - 1, modulus) == 1:
        raise ValueError("not a product of two primes")
    twos = (odd & -odd).bit_length() - 1
    for _ in range(_MOST_TRIES):
        root = pow(secrets.randbelow(modulus - 3) + 2, odd >> twos, modulus)
        if pow(root, 1 << twos, modulus) != 1:
            break  # the private exponent does not belong to the others
        for _ in range(twos):
            square = root * root % modulus
            if square == 1 and root not in (1, modulus - 1):
                prime = math.gcd(root - 1, modulus)
                return max(prime, modulus // prime), min(prime, modulus // prime)
            root = square
    raise ValueError("not an RSA key")


def _elliptic_curve_key(value: bytes, rest: Sequence[Element], curve: str | None) -> PrivateKey:
    """Return a key whose private value is too short or has a leading zero, or whose curve is given by parameters."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    tagged = {element.tag: element.children for element in rest}
    if not tagged.keys() <= {b"\xa0", _PUBLIC_KEY}:
        raise ValueError("unexpected element")
    curve = curve or _curve(tagged.get(b"\xa0", ()))
    if curve is None:
        raise ValueError("unknown curve")
    key = ec.derive_private_key(int.from_bytes(value, "big"), elliptic_curve(curve))
    forms = (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)
    points = [key.public_key().public_bytes(Encoding.X962, form) for form in forms]
    given = [element.content.lstrip(b"\0") for element in tagged.get(_PUBLIC_KEY, ())]  # no unused bits
    if any(point not in (*points, b"") for point in given):
        raise ValueError("the public key does not belong to the private key")
    return key


def _ed25519_key(content: bytes) -> PrivateKey:
    """Return a key whose 32 bytes are not in an OCTET STRING of their own, or precede the public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if content[:1] == asn1.OCTET_STRING and len(content) not in {_ED25519_SIZE, 2 * _ED25519_SIZE}:
        content = asn1.parse(content).content
    if len(content) not in {_ED25519_SIZE, 2 * _ED25519_SIZE}:
        raise ValueError("wrong size")
    key = Ed25519PrivateKey.from_private_bytes(content[:_ED25519_SIZE])
    if content[_ED25519_SIZE:] not in {b"", key.public_key().public_bytes_raw()}:
        raise ValueError("the public key does not belong to the private key")
    return key


def _curve(parameters: Sequence[Element]) -> str | None:
    """Return the curve with this name or these parameters (SEC 1, appendix C.2); None if it is another one."""
    match parameters:
        case (Element(tag=b"\x06", content=oid), *_):
            return _CURVES.get(oid)
        case (Element(children=(_, Element(children=(_, prime)), _, base, order, *_)), *_):
            return _by_parameters(prime, base, order)
    return None


def _by_parameters(prime: Element, base: Element, order: Element) -> str | None:
    from cryptography.hazmat.primitives.asymmetric import ec

    numbers: Any = int.from_bytes(prime.content, "big"), int.from_bytes(order.content, "big")
    for name in ELLIPTIC_CURVES:
        curve = elliptic_curve(name)
        generator = ec.derive_private_key(1, curve).public_key().public_numbers()
        size = (curve.key_size + 7) // 8
        if numbers == (_PRIMES[name], curve.group_order) and base.content[1 : size + 1] == generator.x.to_bytes(size):
            return name
    return None


def _unsupported_kind(tree: Element) -> str | None:
    """Return the name of an algorithm or curve that cannot be used; None if it is another, or not known."""
    match tree.children:
        case (_, Element(tag=asn1.SEQUENCE, children=(Element(content=oid), *parameters)), *_):
            oids = [oid, *(each.content for each in parameters if each.tag == b"\x06")]
            names = map(asn1.dotted_oid, oids)
            return next((_OTHERS[name] for name in names if name in _OTHERS), None)
    if len(tree.children) == _DSA_INTEGERS and all(each.tag == asn1.INTEGER for each in tree.children):
        return "DSA"
    return None


def _first_sentence(error: Exception) -> str:
    """Return the beginning of a message of `cryptography`, which may go on with what to do."""
    return str(error).partition(". ")[0].rstrip(".")
