"""Finding certificates in PEM, DER and PKCS#7, and describing one that `cryptography` refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element
from keyvouch._formats.pem_blocks import Block, has_block, iter_blocks
from keyvouch._system.text import printable

CERTIFICATE_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"})
"""Labels of one certificate: that of RFC 7468, the older name, and OpenSSL's with its trust settings behind it."""
PKCS7_LABELS = frozenset({b"PKCS7", b"CMS", b"PKCS #7 SIGNED DATA"})
"""Labels of a PKCS#7 with certificates (RFC 7468, sections 8 and 9): the content of a `.p7b`."""

SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
"""The PKCS#7 content type for signed data (RFC 5652, section 5.1)."""
_NAMES = {
    b"\x55\x04" + bytes((number,)): name for number, name in ((3, "CN"), (6, "C"), (7, "L"), (10, "O"), (11, "OU"))
}
"""Attribute types of distinguished names (RFC 4519), by their OID."""
_VERSION = b"\xa0"
_MAX_SHOWN = 100
"""Maximum number of characters of a name that are shown."""


def find_certificates(data: bytes) -> Iterator[bytes]:
    """Yield each certificate as DER; for a PEM block that is not base64, or has no end, what is there.

    Blocks of other kinds are skipped. Data that are not PEM are certificates, or a PKCS#7; as in OpenSSL, something
    else may follow.
    """
    if not has_block(data):
        yield from _from_binary(data.lstrip(b"\r\n"))
        return
    blocks = iter_blocks(data)
    try:
        for block in blocks:
            yield from _from_block(block)
    except ValueError:
        yield b""


def describe(der: bytes) -> str:
    """Return the subject of a certificate for people, or else its serial number; empty if neither can be read."""
    try:
        fields = _tbs_fields(der)
        subject = ",".join(_attributes(fields[4]))
        return subject[:_MAX_SHOWN] or f"serial number {fields[0].content.hex()[:_MAX_SHOWN]}"
    except (ValueError, IndexError):
        return ""


def key_digest(der: bytes) -> str | None:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo in hexadecimal; None if it cannot be found."""
    try:
        return hashlib.sha256(asn1.encode(_tbs_fields(der)[5])).hexdigest()
    except (ValueError, IndexError):
        return None


def has_positive_serial(der: bytes) -> bool:
    """Return False if the serial number is zero or negative, which RFC 5280, section 4.1.2.2, forbids."""
    try:
        return int.from_bytes(_tbs_fields(der)[0].content, "big", signed=True) > 0
    except (ValueError, IndexError):
        return True


def _from_block(block: Block) -> Iterator[bytes]:
    if block.label not in CERTIFICATE_LABELS | PKCS7_LABELS:
        return
    try:
        content = block.decode()
    except ValueError:
        yield b""
        return
    yield from _from_der(asn1.first(content))


def _from_binary(data: bytes) -> Iterator[bytes]:
    while data:
        first = asn1.first(data)
        yield from _from_der(first)
        data = data[len(first) :].lstrip(b"\r\n")
        if data[:1] != asn1.SEQUENCE:
            return


def _from_der(data: bytes) -> Iterator[bytes]:
    try:
        tree = asn1.parse(data)
        if tree.child(0).content != SIGNED_DATA:
            yield data
            return
        fields = tree.child(1).child(0).children
    except ValueError:
        yield data
        return
    # SignedData: version, digestAlgorithms, encapContentInfo, [0] certificates (RFC 5652, section 5.1)
    for certificates in (field for field in fields if field.tag == _VERSION):
        yield from (asn1.encode(each) for each in certificates.children if each.tag == asn1.SEQUENCE)


def _tbs_fields(der: bytes) -> tuple[Element, ...]:
    """Return the fields of a TBSCertificate, beginning with the serial number (RFC 5280, section 4.1)."""
    fields = asn1.parse(der).child(0).children
    return fields[1:] if fields and fields[0].tag == _VERSION else fields


def _attributes(name: Element) -> Iterator[str]:
    for attribute in (each for relative in name.children for each in relative.children):
        oid, value = attribute.child(0).content, attribute.child(1)
        yield f"{_NAMES.get(oid) or asn1.dotted_oid(oid)}={printable(asn1.text(value))}"
