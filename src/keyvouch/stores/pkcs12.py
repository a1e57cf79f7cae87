"""The structure of PKCS#12 (RFC 7292, section 4): its MAC, its safes, and the keys and certificates in them."""

from __future__ import annotations

import hmac
from collections.abc import Iterator

import msgspec

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element
from keyvouch.stores import limits, pbe

_DATA, _ENCRYPTED_DATA = bytes.fromhex("2a864886f70d010701"), bytes.fromhex("2a864886f70d010706")
"""PKCS#7 content types (RFC 2315, section 14)."""
_KEY_BAG, _SHROUDED_KEY_BAG, _CERTIFICATE_BAG, _SAFE_CONTENTS_BAG = (
    bytes.fromhex("2a864886f70d010c0a01") + bytes((number,)) for number in (1, 2, 3, 6)
)
"""Bag types (RFC 7292, appendix D)."""
_X509 = bytes.fromhex("2a864886f70d01091601")
"""The type of a certificate in a bag; the other type, SDSI, was never in use."""
_FRIENDLY_NAME, _LOCAL_KEY_ID = bytes.fromhex("2a864886f70d010914"), bytes.fromhex("2a864886f70d010915")
"""Attributes of a bag (RFC 2985, sections 5.5.1 and 5.5.2)."""
_CONTEXT_0, _PRIMITIVE_CONTEXT_0 = b"\xa0", b"\x80"
_MAX_DEPTH = 8
"""Maximum number of safes within safes."""


class UnsupportedContentError(ValueError):
    """Encryption or integrity by a public key, which needs another private key."""


class KeyBag(msgspec.Struct, frozen=True):
    """A private key."""

    value: Element
    """PrivateKeyInfo or EncryptedPrivateKeyInfo."""
    is_encrypted: bool
    name: str | None
    local_id: bytes | None
    """Identifies the certificate that belongs to the key."""

    @property
    def encryption(self) -> tuple[Element, bytes]:
        """The AlgorithmIdentifier and the ciphertext of an encrypted key."""
        return self.value.child(0), self.value.child(1).content

    def decrypt(self, password: str | None) -> bytes:
        """Return the key as PKCS#8. Raises like `pbe.decrypt`."""
        if not self.is_encrypted:
            return asn1.encode(self.value)
        return pbe.decrypt(*self.encryption, password)


class CertificateBag(msgspec.Struct, frozen=True):
    """An X.509 certificate."""

    der: bytes
    name: str | None
    local_id: bytes | None


class Safes(msgspec.Struct, frozen=True):
    """The contents of all safes."""

    keys: list[KeyBag]
    certificates: list[CertificateBag]


def mac_rounds(pfx: Element) -> int:
    """Return the rounds for the MAC if there is one: by default its iterations are 1."""
    match pfx.children[2:]:
        case (Element(children=(_, _, iterations, *_)), *_):
            return limits.number(iterations)
    return 0


def has_mac(pfx: Element) -> bool:
    """Return True if the file has a MAC, which tells a wrong password from a damaged file."""
    return len(pfx.children) > 2  # noqa: PLR2004 - version, authSafe, macData


def mac_matches(pfx: Element, password: str | None) -> bool:
    """Return True if the file has not changed since it was written with this password.

    Raises `pbe.UnsupportedAlgorithmError`, and ValueError if the structure is invalid.
    """
    data = pfx.child(2)
    digest_info, salt = data.child(0), data.child(1).content
    expected = digest_info.child(1).content
    return hmac.compare_digest(pbe.mac(digest_info, salt, max(1, mac_rounds(pfx)), _content(pfx), password), expected)


def plain_safes(pfx: Element) -> Iterator[Element]:
    """Yield the list of safes, and each safe that is not encrypted."""
    safes = asn1.parse(_content(pfx))
    yield safes
    for info in safes.children:
        if info.child(0).content == _DATA:
            yield asn1.parse(info.child(1).child(0).content)


def open_safes(pfx: Element, password: str | None) -> list[Element]:
    """Return every safe, decrypted.

    Raises like `pbe.decrypt`, `UnsupportedContentError`, and ValueError if the structure is invalid.
    """
    return [_open(info, password) for info in asn1.parse(_content(pfx)).children]


def encrypted_parts(pfx: Element) -> Iterator[tuple[Element, bytes]]:
    """Yield the AlgorithmIdentifier and the ciphertext of each encrypted safe, and of each key in the other safes."""
    infos, *plain = plain_safes(pfx)
    for info in infos.children:
        if info.child(0).content == _ENCRYPTED_DATA:
            yield _encryption(info)
    for bag in bags(plain).keys:
        if bag.is_encrypted:
            yield bag.encryption


def bags(safes: list[Element]) -> Safes:
    """Return the keys and certificates in the safes, and in safes within them. Raises ValueError."""
    found = Safes([], [])
    for safe in safes:
        _collect(safe, found, 0)
    return found


def _content(pfx: Element) -> bytes:
    """Return the encoded list of safes, which the MAC covers."""
    info = pfx.child(1)
    if info.child(0).content != _DATA:
        raise UnsupportedContentError("it is protected with a public key")
    return info.child(1).child(0).content


def _open(info: Element, password: str | None) -> Element:
    kind = info.child(0).content
    if kind == _DATA:
        return asn1.parse(info.child(1).child(0).content)
    if kind != _ENCRYPTED_DATA:
        raise UnsupportedContentError("it is encrypted for a public key")
    return asn1.parse(pbe.decrypt(*_encryption(info), password))


def _encryption(info: Element) -> tuple[Element, bytes]:
    """Return the AlgorithmIdentifier and the ciphertext of an encrypted safe."""
    # EncryptedData: version, EncryptedContentInfo: type, algorithm, [0] IMPLICIT OCTET STRING (RFC 2315, section 13)
    encrypted = info.child(1).child(0).child(1)
    return encrypted.child(1), _octets(encrypted.child(2))


def _octets(implicit: Element) -> bytes:
    """Return an OCTET STRING with the tag [0], which BER may encode in segments."""
    if implicit.tag == _PRIMITIVE_CONTEXT_0:
        return implicit.content
    return b"".join(segment.content for segment in implicit.children)


def _collect(safe: Element, found: Safes, depth: int) -> None:
    if depth == _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} safes within safes")
    for bag in safe.children:
        kind, value = bag.child(0).content, bag.child(1).child(0)
        name, local_id = _attribute(bag, _FRIENDLY_NAME), _attribute(bag, _LOCAL_KEY_ID)
        text = asn1.text(name).rstrip("\0") if name else None
        identifier = local_id.content if local_id else None
        if kind in {_KEY_BAG, _SHROUDED_KEY_BAG}:
            found.keys.append(KeyBag(value, kind == _SHROUDED_KEY_BAG, text or None, identifier))
        elif kind == _CERTIFICATE_BAG and value.child(0).content == _X509:
            found.certificates.append(CertificateBag(value.child(1).child(0).content, text or None, identifier))
        elif kind == _SAFE_CONTENTS_BAG:
            _collect(value, found, depth + 1)


def _attribute(bag: Element, wanted: bytes) -> Element | None:
    """Return the first value of an attribute: a character string or an OCTET STRING."""
    for attribute in (each for attributes in bag.children[2:] for each in attributes.children):
        match attribute.children:
            case (Element(content=oid), Element(children=(value, *_)), *_) if oid == wanted:
                return value
    return None
