"""The objects on a token: private keys with their public keys and certificates."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec
from cryptography import x509

from keyvouch.certificate import find_issuers, order_chain
from keyvouch.errors import KeyUnusable
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, public_key_from_attributes

if TYPE_CHECKING:
    from keyvouch.algorithms import PublicKey

_KEY_TYPES = (ck.CKK_RSA, ck.CKK_EC, ck.CKK_EC_EDWARDS)
_ATTRIBUTES = (
    *(ck.CKA_CLASS, ck.CKA_ID, ck.CKA_LABEL, ck.CKA_KEY_TYPE, ck.CKA_SIGN, ck.CKA_SENSITIVE, ck.CKA_EXTRACTABLE),
    *(ck.CKA_ALWAYS_AUTHENTICATE, *PUBLIC_KEY_ATTRIBUTES),
)
"""Attributes of keys and certificates that are read together.

Not CKA_VALUE: of some private keys that is the private value, and a token may reveal it.
"""
_MOST_SEARCHES = 4
"""Maximum number of keys for each of which the token is searched for what belongs to it."""


class PrivateKeyObject(msgspec.Struct, frozen=True):
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


class _Reader:
    """Reads the objects of a token in one session, each of them once. Its methods raise `CryptokiError`."""

    def __init__(self, functions: ck.Cryptoki, session: int) -> None:
        self._functions, self._session = functions, session
        self._attributes: dict[int, dict[int, bytes]] = {}
        """By handle."""
        self._by_id: dict[bytes, list[int]] | None = None
        """The handles of all public keys and certificates, once they have been read."""
        self._by_subject: dict[bytes, list[x509.Certificate]] = {}

    def find(self, template: ck.Template) -> list[int]:
        """Return the handles of the objects with these attributes."""
        return self._functions.find_objects(self._session, template)

    def attributes(self, handle: int) -> dict[int, bytes]:
        """Return an object's attributes, as far as it has them."""
        if handle not in self._attributes:
            self._attributes[handle] = self._functions.read_attributes(self._session, handle, _ATTRIBUTES)
        return self._attributes[handle]

    def class_of(self, handle: int) -> int:
        return _decode_ulong(self.attributes(handle).get(ck.CKA_CLASS, b""))

    def with_id(self, key_id: bytes) -> list[int]:
        """Return the handles of the objects with this id; after `read_all`, only of public keys and certificates."""
        if self._by_id is not None:
            return self._by_id.get(key_id, [])
        return self.find({ck.CKA_TOKEN: True, ck.CKA_ID: key_id}) if key_id else []

    def read_all(self) -> None:
        """Read all public keys and certificates, for many keys: each search scans all objects in most modules."""
        self._by_id = {}
        for object_class in (ck.CKO_PUBLIC_KEY, ck.CKO_CERTIFICATE):
            for handle in self.find({ck.CKA_TOKEN: True, ck.CKA_CLASS: object_class}):
                if key_id := self.attributes(handle).get(ck.CKA_ID, b""):
                    self._by_id.setdefault(key_id, []).append(handle)

    def public_keys(self, handles: Iterable[int]) -> list[tuple[int, PublicKey | None]]:
        """Return the public keys among these objects, each with its handle."""
        found = [handle for handle in handles if self.class_of(handle) == ck.CKO_PUBLIC_KEY]
        return [(handle, public_key_from_attributes(self.attributes(handle))) for handle in found]

    def certificates(self, handles: Iterable[int]) -> list[tuple[int, x509.Certificate]]:
        """Return the certificates among these objects, each with its handle; skip any that cannot be parsed."""
        return self.load([handle for handle in handles if self.class_of(handle) == ck.CKO_CERTIFICATE])

    def load(self, handles: Iterable[int]) -> list[tuple[int, x509.Certificate]]:
        """Return these certificates, each with its handle; skip any that cannot be parsed."""
        found = []
        for handle in handles:
            try:
                value = self._functions.read_attributes(self._session, handle, (ck.CKA_VALUE,))
                found.append((handle, x509.load_der_x509_certificate(value.get(ck.CKA_VALUE, b""))))
            except (ValueError, x509.InvalidVersion):
                continue
        return found

    def issuers(self, certificate: x509.Certificate) -> list[x509.Certificate]:
        """Return the certificates whose subject is the issuer of this one."""
        subject = certificate.issuer.public_bytes()
        if subject not in self._by_subject:
            found = self.load(self.find(_certificate_template({ck.CKA_SUBJECT: subject})))
            self._by_subject[subject] = [each for _, each in found]
        return self._by_subject[subject]


def find_private_keys(
    functions: ck.Cryptoki,
    session: int,
    *,
    key_id: bytes | None,
    label: bytes | None,
    is_enough: Callable[[PrivateKeyObject], bool],
) -> list[PrivateKeyObject]:
    """Return the private keys with this id and label whose type can sign JWTs, up to the first that `is_enough`.

    In most modules a search scans all objects of a token, so one search is made if the id is known, two for a few keys
    with the label, and otherwise three. Raises `CryptokiError`.
    """
    reader = _Reader(functions, session)
    if key_id:
        handles = related = reader.with_id(key_id)
    else:
        template: dict[int, ck.AttributeValue] = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, ck.CKA_TOKEN: True}
        template |= {ck.CKA_LABEL: label} if label else {}
        handles, related = reader.find(template), None
        if len(handles) > _MOST_SEARCHES:
            reader.read_all()
    found: list[PrivateKeyObject] = []
    for handle in handles:
        attributes = reader.attributes(handle)
        if (
            reader.class_of(handle) == ck.CKO_PRIVATE_KEY
            and _decode_ulong(attributes.get(ck.CKA_KEY_TYPE, b"\xff")) in _KEY_TYPES
            and label in (None, attributes.get(ck.CKA_LABEL, b""))
            and key_id in (None, attributes.get(ck.CKA_ID, b""))
        ):
            found.append(_private_key(reader, handle, related))
            if is_enough(found[-1]):
                break
    return found


def read_private_key(functions: ck.Cryptoki, session: int, handle: int) -> PrivateKeyObject:
    """Return the private key at a handle. Raises `CryptokiError`."""
    return _private_key(_Reader(functions, session), handle, None)


def _private_key(reader: _Reader, handle: int, related: list[int] | None) -> PrivateKeyObject:
    """Build the object; `related`: the handles of the objects with the same id, if known."""
    attributes = reader.attributes(handle)
    key_id = attributes.get(ck.CKA_ID, b"")
    public_key, chain = _public_key_and_chain(
        reader, attributes, reader.with_id(key_id) if related is None else related
    )
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
    reader: _Reader, attributes: dict[int, bytes], related: list[int]
) -> tuple[PublicKey | None, tuple[x509.Certificate, ...]]:
    certificates = [each for _, each in reader.certificates(related)]
    public_key = public_key_from_attributes(attributes) or _only_public_key(reader, related)
    if public_key is None and len(certificates) == 1:
        public_key = certificates[0].public_key()  # type: ignore[assignment]  # same key type as the private key
    chain: tuple[x509.Certificate, ...] = ()
    if public_key is not None and certificates:
        chain = order_chain(certificates, public_key)
        chain += find_issuers(chain[-1], reader.issuers) if chain else ()
    return public_key, chain


def _only_public_key(reader: _Reader, handles: list[int]) -> PublicKey | None:
    """Return the public key if all of these objects have the same one."""
    keys = [key for _, key in reader.public_keys(handles) if key is not None]
    return keys[0] if keys and all(key == keys[0] for key in keys[1:]) else None


def find_public_objects(functions: ck.Cryptoki, session: int, key: PrivateKeyObject) -> list[int]:
    """Return the handles of a key's own public keys and certificates. Raises `CryptokiError`."""
    reader = _Reader(functions, session)
    related = reader.with_id(key.id)
    public_keys = dict(reader.public_keys(related))
    certificates = reader.certificates(related)
    public_keys |= {handle: each.public_key() for handle, each in certificates}  # type: ignore[misc]  # compared only
    return [handle for handle, public_key in public_keys.items() if public_key == key.public_key]


def find_certificates(
    functions: ck.Cryptoki, session: int, attributes: dict[int, ck.AttributeValue]
) -> list[tuple[int, x509.Certificate]]:
    """Return the certificates with these attributes, each with its handle; skip any that cannot be parsed."""
    reader = _Reader(functions, session)
    return reader.load(reader.find(_certificate_template(attributes)))


def _certificate_template(attributes: dict[int, ck.AttributeValue]) -> dict[int, ck.AttributeValue]:
    return {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_CERTIFICATE_TYPE: ck.CKC_X_509, **attributes}


def _decode_ulong(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


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
