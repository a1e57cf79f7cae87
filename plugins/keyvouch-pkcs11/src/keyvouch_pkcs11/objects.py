"""The objects on a token: private keys with their public keys and certificates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from keyvouch.certificate import find_issuers, order_chain, spki_sha256
from keyvouch.errors import KeyUnusable
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, public_key_from_attributes

if TYPE_CHECKING:
    from keyvouch.algorithms import PublicKey

_KEY_TYPES = (ck.CKK_RSA, ck.CKK_EC, ck.CKK_EC_EDWARDS)
_PRIVATE_KEY_ATTRIBUTES = (
    *(ck.CKA_ID, ck.CKA_LABEL, ck.CKA_KEY_TYPE, ck.CKA_SIGN, ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE),
    *(ck.CKA_ALWAYS_AUTHENTICATE, *PUBLIC_KEY_ATTRIBUTES),
)


@dataclass(frozen=True)
class PrivateKeyObject:
    """A private key on a token, with its public key and certificates."""

    handle: int
    id: bytes
    label: bytes
    public_key: PublicKey | None
    """As read from the token; None if it shows neither a public key nor a certificate."""
    chain: tuple[x509.Certificate, ...]
    can_sign: bool
    exportable: bool
    always_authenticate: bool


def find_private_keys(
    functions: ck.Cryptoki,
    session: int,
    *,
    key_id: bytes | None,
    label: bytes | None,
) -> list[PrivateKeyObject]:
    """Return the private keys with this id and label whose type can sign JWTs. Raises `CryptokiError`.

    In most modules a search scans all objects of a token, so one search is made if the id is known, otherwise two.
    """
    if key_id:
        related = _handles_by_class(functions, session, key_id)
        handles = related.get(ck.CKO_PRIVATE_KEY, [])
    else:
        template: dict[int, ck.AttributeValue] = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_TOKEN: True}
        template |= {ck.CKA_LABEL: label} if label else {}
        related, handles = None, functions.find_objects(session, template)
    found = []
    for handle in handles:
        attributes = functions.read_attributes(session, handle, _PRIVATE_KEY_ATTRIBUTES)
        kind = _decode_ulong(attributes.get(ck.CKA_KEY_TYPE, b"\xff"))
        if (
            kind in _KEY_TYPES
            and label in (None, attributes.get(ck.CKA_LABEL, b""))
            and key_id in (None, attributes.get(ck.CKA_ID, b""))
        ):
            found.append(_private_key(functions, session, handle, attributes, related))
    return found


def read_private_key(functions: ck.Cryptoki, session: int, handle: int) -> PrivateKeyObject:
    """Return the private key at a handle. Raises `CryptokiError`."""
    attributes = functions.read_attributes(session, handle, _PRIVATE_KEY_ATTRIBUTES)
    return _private_key(functions, session, handle, attributes, None)


def _private_key(
    functions: ck.Cryptoki,
    session: int,
    handle: int,
    attributes: dict[int, bytes],
    related: dict[int, list[int]] | None,
) -> PrivateKeyObject:
    """Build the object; `related`: the handles of the objects with the same id, by class, if known."""
    key_id = attributes.get(ck.CKA_ID, b"")
    if related is None:
        related = _handles_by_class(functions, session, key_id) if key_id else {}
    public_key, chain = _public_key_and_chain(functions, session, attributes, related)
    return PrivateKeyObject(
        handle,
        key_id,
        attributes.get(ck.CKA_LABEL, b""),
        public_key,
        chain,
        can_sign=attributes.get(ck.CKA_SIGN, b"\1") != b"\0",
        exportable=attributes.get(ck.CKA_EXTRACTABLE) == b"\1" and attributes.get(ck.CKA_SENSITIVE) == b"\0",
        always_authenticate=attributes.get(ck.CKA_ALWAYS_AUTHENTICATE) == b"\1",
    )


def _public_key_and_chain(
    functions: ck.Cryptoki, session: int, attributes: dict[int, bytes], related: dict[int, list[int]]
) -> tuple[PublicKey | None, tuple[x509.Certificate, ...]]:
    certificates = [each for _, each in _read_certificates(functions, session, related.get(ck.CKO_CERTIFICATE, []))]
    public_key = public_key_from_attributes(attributes) or _only_public_key(
        functions, session, related.get(ck.CKO_PUBLIC_KEY, [])
    )
    if public_key is None and len(certificates) == 1:
        public_key = certificates[0].public_key()  # type: ignore[assignment]  # same key type as the private key
    chain: tuple[x509.Certificate, ...] = ()
    if public_key is not None and certificates:
        chain = order_chain(certificates, public_key)
        chain += _find_issuers(functions, session, chain[-1]) if chain else ()
    return public_key, chain


def _handles_by_class(functions: ck.Cryptoki, session: int, key_id: bytes) -> dict[int, list[int]]:
    """Return the handles of the token's objects with this id, by object class."""
    found: dict[int, list[int]] = {}
    for handle in functions.find_objects(session, {ck.CKA_TOKEN: True, ck.CKA_ID: key_id}):
        attributes = functions.read_attributes(session, handle, (ck.CKA_CLASS,))
        found.setdefault(_decode_ulong(attributes.get(ck.CKA_CLASS, b"")), []).append(handle)
    return found


def find_public_objects(functions: ck.Cryptoki, session: int, key: PrivateKeyObject) -> list[int]:
    """Return the handles of a key's own public keys and certificates. Raises `CryptokiError`."""
    related = _handles_by_class(functions, session, key.id) if key.id else {}
    public_keys = {
        handle: _read_public_key(functions, session, handle) for handle in related.get(ck.CKO_PUBLIC_KEY, [])
    }
    certificates = _read_certificates(functions, session, related.get(ck.CKO_CERTIFICATE, []))
    public_keys |= {handle: each.public_key() for handle, each in certificates}  # type: ignore[misc]  # compared only
    return [handle for handle, public_key in public_keys.items() if public_key == key.public_key]


def _decode_ulong(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _read_public_key(functions: ck.Cryptoki, session: int, handle: int) -> PublicKey | None:
    return public_key_from_attributes(functions.read_attributes(session, handle, PUBLIC_KEY_ATTRIBUTES))


def _only_public_key(functions: ck.Cryptoki, session: int, handles: Sequence[int]) -> PublicKey | None:
    """Return the public key if all of these objects have the same one."""
    keys = [_read_public_key(functions, session, handle) for handle in handles]
    distinct = {spki_sha256(key): key for key in keys if key is not None}
    return next(iter(distinct.values())) if len(distinct) == 1 else None


def _find_issuers(functions: ck.Cryptoki, session: int, certificate: x509.Certificate) -> tuple[x509.Certificate, ...]:
    """Return the chain of issuers found on the token, starting with this certificate's issuer."""

    def with_subject_of_issuer(certificate: x509.Certificate) -> list[x509.Certificate]:
        found = find_certificates(functions, session, {ck.CKA_SUBJECT: certificate.issuer.public_bytes()})
        return [each for _, each in found]

    return find_issuers(certificate, with_subject_of_issuer)


def find_certificates(
    functions: ck.Cryptoki, session: int, attributes: dict[int, ck.AttributeValue]
) -> list[tuple[int, x509.Certificate]]:
    """Return the certificates with these attributes, each with its handle; skip any that cannot be parsed."""
    template = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: ck.CKC_X_509, **attributes}
    return _read_certificates(functions, session, functions.find_objects(session, template))


def _read_certificates(
    functions: ck.Cryptoki, session: int, handles: Sequence[int]
) -> list[tuple[int, x509.Certificate]]:
    found = []
    for handle in handles:
        try:
            der = functions.read_attributes(session, handle, (ck.CKA_VALUE,)).get(ck.CKA_VALUE, b"")
            found.append((handle, x509.load_der_x509_certificate(der)))
        except (ValueError, x509.InvalidVersion):
            continue
    return found


def require_public_key(key: PrivateKeyObject, certificate: x509.Certificate | None) -> PublicKey:
    """Return the public key from the token or else from the given certificate. Raises `KeyUnusable`."""
    if key.public_key is not None:
        return key.public_key
    if certificate is not None:
        return certificate.public_key()  # type: ignore[return-value]  # same key type as the private key
    raise KeyUnusable(
        "The token has no public key for the private key.",
        hint="Write its certificate to the token, or add certificate-file=/...",
    )
