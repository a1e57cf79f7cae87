"""RSASSA-PSS keys (RFC 4055): RSA keys whose own parameters restrict how they may be used."""

from __future__ import annotations

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element

_RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")
_SHA1 = bytes.fromhex("2b0e03021a")
_HASHES = {
    bytes.fromhex("608648016503040201"): ("sha256", 32),
    bytes.fromhex("608648016503040202"): ("sha384", 48),
    bytes.fromhex("608648016503040203"): ("sha512", 64),
}
"""Hashes of JOSE's algorithms, with the size of their digest."""
_SHA1_SALT = 20
"""Default size of the salt in bytes."""


def is_pss(algorithm: Element) -> bool:
    """Return True for the AlgorithmIdentifier of an RSASSA-PSS key."""
    return bool(algorithm.children) and algorithm.children[0].content == _RSASSA_PSS


def allowed_hashes(algorithm: Element) -> list[str]:
    """Return the hashes with which JOSE can use an RSASSA-PSS key, as `hashlib` names them.

    Without parameters there is no restriction. JOSE uses one hash for all purposes, and a salt of the digest's size;
    the parameters give the least size of the salt (RFC 4055, section 3.3). Raises ValueError.
    """
    if len(algorithm.children) == 1:
        return [name for name, _ in _HASHES.values()]
    given = {field.tag: field.child(0) for field in algorithm.child(1).children}
    hash_oid = given[b"\xa0"].child(0).content if b"\xa0" in given else _SHA1
    mask_oid = given[b"\xa1"].child(1).child(0).content if b"\xa1" in given else _SHA1
    salt = int.from_bytes(given[b"\xa2"].content, "big") if b"\xa2" in given else _SHA1_SALT
    name, size = _HASHES.get(hash_oid, ("", 0))
    return [name] if hash_oid == mask_oid and salt <= size else []


def key_info(algorithm: Element, public_key: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a key with this algorithm; `public_key` is that of plain RSA, in DER."""
    return asn1.encode(Element(asn1.SEQUENCE, b"", (algorithm, asn1.parse(public_key).child(1))))
