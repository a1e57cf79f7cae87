"""The objects on a token: private keys with their public keys and certificates, and templates for new ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvouch.algorithms import key_type
from keyvouch.certificate import is_issued_by, order_chain, spki_sha256
from keyvouch.errors import KeyUnusable, NotSupported
from keyvouch_pkcs11 import cryptoki as ck

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey, PublicKey

_CURVES = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
"""Curves by the DER of their OIDs, as in CKA_EC_PARAMS."""
_PARAMETERS = {f"P-{curve.key_size}": der for der, curve in _CURVES.items()}
_ED25519 = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
"""CKA_EC_PARAMS of Ed25519: the OID of RFC 8410, and the PrintableString that PKCS#11 3.0 introduced."""
_OCTET_STRING = 0x04
_LONGEST_CHAIN = 8
_KINDS = (ck.CKK_RSA, ck.CKK_EC, ck.CKK_EC_EDWARDS)
_PRIVATE = (
    *(ck.CKA_ID, ck.CKA_LABEL, ck.CKA_KEY_TYPE, ck.CKA_SIGN, ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE),
    *(ck.CKA_ALWAYS_AUTHENTICATE, ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT, ck.CKA_EC_PARAMS, ck.CKA_EC_POINT),
)
_PUBLIC = (ck.CKA_MODULUS, ck.CKA_PUBLIC_EXPONENT, ck.CKA_EC_PARAMS, ck.CKA_EC_POINT)


@dataclass(frozen=True)
class PrivateObject:
    """A private key on a token, with its public key and certificates."""

    handle: int
    id: bytes
    label: bytes
    public_key: PublicKey | None
    """As read from the token; None if it shows neither a public key nor a certificate."""
    chain: tuple[x509.Certificate, ...]
    signs: bool
    exportable: bool
    always_authenticate: bool


def private_objects(
    functions: ck.Cryptoki,
    session: int,
    *,
    identity: bytes | None,
    label: bytes | None,
) -> list[PrivateObject]:
    """Return the private keys with this id and label whose type can sign JWTs. Raises `CryptokiError`.

    In most modules a search scans all objects of a token, so one search is made if the id is known, otherwise two.
    """
    if identity:
        beside = _by_class(functions, session, identity)
        handles = beside.get(ck.CKO_PRIVATE_KEY, [])
    else:
        template: dict[int, ck.Value] = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_TOKEN: True}
        template |= {ck.CKA_LABEL: label} if label is not None else {}
        beside, handles = None, functions.find(session, template)
    found = []
    for handle in handles:
        shown = functions.read(session, handle, _PRIVATE)
        kind = _number(shown.get(ck.CKA_KEY_TYPE, b"\xff"))
        if kind in _KINDS and label in (None, shown.get(ck.CKA_LABEL, b"")):
            found.append(_described(functions, session, handle, shown, beside))
    return found


def described(functions: ck.Cryptoki, session: int, handle: int) -> PrivateObject:
    """Return the private key at a handle. Raises `CryptokiError`."""
    return _described(functions, session, handle, functions.read(session, handle, _PRIVATE), None)


def _described(
    functions: ck.Cryptoki,
    session: int,
    handle: int,
    shown: dict[int, bytes],
    beside: dict[int, list[int]] | None,
) -> PrivateObject:
    identity = shown.get(ck.CKA_ID, b"")
    if beside is None:
        beside = _by_class(functions, session, identity) if identity else {}
    certificates = [each for _, each in _certificates(functions, session, beside.get(ck.CKO_CERTIFICATE, []))]
    public_key = _public_key(shown) or _only_key(functions, session, beside.get(ck.CKO_PUBLIC_KEY, []))
    if public_key is None and len(certificates) == 1:
        public_key = certificates[0].public_key()  # type: ignore[assignment]  # same key type as the private key
    chain: tuple[x509.Certificate, ...] = ()
    if public_key is not None and certificates:
        chain = order_chain(certificates, public_key)
        chain += _issuers(functions, session, chain[-1]) if chain else ()
    return PrivateObject(
        handle,
        identity,
        shown.get(ck.CKA_LABEL, b""),
        public_key,
        chain,
        signs=shown.get(ck.CKA_SIGN, b"\1") != b"\0",
        exportable=shown.get(ck.CKA_EXTRACTABLE) == b"\1" and shown.get(ck.CKA_SENSITIVE) == b"\0",
        always_authenticate=shown.get(ck.CKA_ALWAYS_AUTHENTICATE) == b"\1",
    )


def _by_class(functions: ck.Cryptoki, session: int, identity: bytes) -> dict[int, list[int]]:
    """Return the handles of the token's objects with this id, by object class."""
    found: dict[int, list[int]] = {}
    for handle in functions.find(session, {ck.CKA_TOKEN: True, ck.CKA_ID: identity}):
        kind = _number(functions.read(session, handle, (ck.CKA_CLASS,)).get(ck.CKA_CLASS, b""))
        found.setdefault(kind, []).append(handle)
    return found


def belongings(functions: ck.Cryptoki, session: int, key: PrivateObject) -> list[int]:
    """Return the handles of a key's own public keys and certificates. Raises `CryptokiError`."""
    beside = _by_class(functions, session, key.id) if key.id else {}
    public_keys = {
        handle: _public_key(functions.read(session, handle, _PUBLIC)) for handle in beside.get(ck.CKO_PUBLIC_KEY, [])
    }
    certificates = _certificates(functions, session, beside.get(ck.CKO_CERTIFICATE, []))
    halves = public_keys | {handle: each.public_key() for handle, each in certificates}
    return [handle for handle, half in halves.items() if half == key.public_key]


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, sys.byteorder)


def _only_key(functions: ck.Cryptoki, session: int, handles: Sequence[int]) -> PublicKey | None:
    keys = [_public_key(functions.read(session, handle, _PUBLIC)) for handle in handles]
    known = {spki_sha256(key): key for key in keys if key is not None}
    return next(iter(known.values())) if len(known) == 1 else None


def _public_key(shown: dict[int, bytes]) -> PublicKey | None:
    """Build a public key from an object's attributes; None if they are incomplete."""
    with contextlib.suppress(ValueError):
        if modulus := shown.get(ck.CKA_MODULUS):
            exponent = shown.get(ck.CKA_PUBLIC_EXPONENT) or b"\1\0\1"
            return rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus)).public_key()
        point, parameters = shown.get(ck.CKA_EC_POINT), shown.get(ck.CKA_EC_PARAMS)
        if not point or not parameters:
            return None
        if parameters in _ED25519:
            return ed25519.Ed25519PublicKey.from_public_bytes(point[-32:])
        if curve := _CURVES.get(parameters):
            # The standard requires a DER OCTET STRING; some modules return the bare point.
            size = 1 + 2 * ((curve.key_size + 7) // 8)
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-size:])
    return None


def _issuers(functions: ck.Cryptoki, session: int, certificate: x509.Certificate) -> tuple[x509.Certificate, ...]:
    """Return the chain of issuers found on the token, starting with this certificate's issuer."""
    chain: tuple[x509.Certificate, ...] = ()
    while certificate.issuer != certificate.subject and len(chain) < _LONGEST_CHAIN:
        candidates = certificate_objects(functions, session, {ck.CKA_SUBJECT: certificate.issuer.public_bytes()})
        issuer = next((each for _, each in candidates if is_issued_by(certificate, each)), None)
        if issuer is None:
            break
        chain += (issuer,)
        certificate = issuer
    return chain


def certificate_objects(
    functions: ck.Cryptoki, session: int, attributes: dict[int, ck.Value]
) -> list[tuple[int, x509.Certificate]]:
    """Return the certificates with these attributes, each with its handle; skip any that cannot be parsed."""
    template = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: ck.CKC_X_509, **attributes}
    return _certificates(functions, session, functions.find(session, template))


def _certificates(functions: ck.Cryptoki, session: int, handles: Sequence[int]) -> list[tuple[int, x509.Certificate]]:
    found = []
    for handle in handles:
        try:
            octets = functions.read(session, handle, (ck.CKA_VALUE,)).get(ck.CKA_VALUE, b"")
            found.append((handle, x509.load_der_x509_certificate(octets)))
        except (ValueError, x509.InvalidVersion):
            continue
    return found


def generation(kind: str) -> tuple[int, dict[int, ck.Value]]:
    """Return the mechanism that generates this type of key, and the type's attributes for the public key's template.

    Raises `NotSupported`.
    """
    name, _, size = kind.partition("-")
    if name == "RSA":
        return ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {ck.CKA_MODULUS_BITS: int(size), ck.CKA_PUBLIC_EXPONENT: b"\1\0\1"}
    if kind in _PARAMETERS:
        return ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: _PARAMETERS[kind]}
    if kind == "Ed25519":
        return ck.CKM_EC_EDWARDS_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: _ED25519[1]}
    raise NotSupported(f"A PKCS#11 token makes no {kind}.", hint="Make RSA-2048, or P-256.")


def importable(key: PrivateKey) -> tuple[dict[int, ck.Value], dict[int, ck.Value]]:
    """Return the key's attributes for its private and its public template. Raises `NotSupported`."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        public = {ck.CKA_MODULUS: numbers.public_numbers.n, ck.CKA_PUBLIC_EXPONENT: numbers.public_numbers.e}
        private = {
            **public,
            ck.CKA_PRIVATE_EXPONENT: numbers.d,
            ck.CKA_PRIME_1: numbers.p,
            ck.CKA_PRIME_2: numbers.q,
            ck.CKA_EXPONENT_1: numbers.dmp1,
            ck.CKA_EXPONENT_2: numbers.dmq1,
            ck.CKA_COEFFICIENT: numbers.iqmp,
        }
        kind: dict[int, ck.Value] = {ck.CKA_KEY_TYPE: ck.CKK_RSA}
        return kind | _big(private), kind | _big(public)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        parameters = _PARAMETERS[key_type(key)]
        size = (key.key_size + 7) // 8
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        shared: dict[int, ck.Value] = {ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: parameters}
        value = key.private_numbers().private_value.to_bytes(size)
        return shared | {ck.CKA_VALUE: value}, shared | {ck.CKA_EC_POINT: _octet_string(point)}
    raise NotSupported("An Ed25519 key is not imported into tokens.", hint="Make it there: `keyvouch new`.")


def _big(numbers: dict[int, int]) -> dict[int, ck.Value]:
    return {each: value.to_bytes((value.bit_length() + 7) // 8) for each, value in numbers.items()}


def _octet_string(octets: bytes) -> bytes:
    length = bytes([len(octets)]) if len(octets) < 0x80 else bytes([0x81, len(octets)])  # noqa: PLR2004 - DER's long form
    return bytes([_OCTET_STRING]) + length + octets


def certificate_template(certificate: x509.Certificate, identity: bytes, label: bytes) -> dict[int, ck.Value]:
    """Return the template of a certificate object."""
    serial = certificate.serial_number
    octets = serial.to_bytes(serial.bit_length() // 8 + 1)
    return {
        ck.CKA_CLASS: ck.CKO_CERTIFICATE,
        ck.CKA_CERTIFICATE_TYPE: ck.CKC_X_509,
        ck.CKA_TOKEN: True,
        ck.CKA_PRIVATE: False,
        ck.CKA_ID: identity,
        ck.CKA_LABEL: label,
        ck.CKA_SUBJECT: certificate.subject.public_bytes(),
        ck.CKA_ISSUER: certificate.issuer.public_bytes(),
        ck.CKA_SERIAL_NUMBER: b"\2" + bytes([len(octets)]) + octets,
        ck.CKA_VALUE: certificate.public_bytes(Encoding.DER),
    }


def require_public_key(found: PrivateObject, given: Sequence[x509.Certificate]) -> PublicKey:
    """Return the public key from the token or else from the given certificate. Raises `KeyUnusable`."""
    if found.public_key is not None:
        return found.public_key
    if given:
        return given[0].public_key()  # type: ignore[return-value]  # same key type as the private key
    raise KeyUnusable(
        "The token shows no public key for this private one.",
        hint="Write its certificate to the token, or add certificate-file=/...",
    )
