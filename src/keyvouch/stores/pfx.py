"""PKCS#12 (RFC 7292), what Windows calls PFX: octets in, keys and certificates out, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch.algorithms import CRYPTOGRAPHY
from keyvouch.certificate import certificate_spki, is_readable, parsing, spki_sha256
from keyvouch.errors import KeyUnusable, SecretIncorrect, SecretRequired
from keyvouch.stores.entries import Contents

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import KeySerializationEncryption
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import Secret

_KEY_BAG = bytes.fromhex("060b2a864886f70d010c0a0101")
_SHROUDED_KEY_BAG = bytes.fromhex("060b2a864886f70d010c0a0102")
"""DER of the two object identifiers that stand before a private key (RFC 7292, appendix D)."""

_SEQUENCE, _INDEFINITE = 0x30, 0x80
_VERSION_3 = b"\x02\x01\x03"
"""What every PKCS#12 begins with, and no certificate or bare key does."""


@CRYPTOGRAPHY
def read(octets: bytes, password: Secret | None, path: Path) -> Contents:
    """Return what is in a PKCS#12; `path` is for errors.

    Raises `KeyUnusable` for what is no PKCS#12 or holds no private key, `SecretRequired`, `SecretIncorrect`.
    """
    der = _definite(octets, path)
    bundle, opened_with = _unlock(der, password, path)
    bags = [bundle.cert, *bundle.additional_certs] if bundle.cert else bundle.additional_certs
    names = {certificate_spki(bag.certificate): _text(bag.friendly_name) for bag in bags}
    # Of several keys `load_pkcs12` gives the first, and says nothing of the others.
    if der.count(_KEY_BAG) + der.count(_SHROUDED_KEY_BAG) > 1:
        keys = _every_key(der, opened_with, path)
    else:
        keys = [(bundle.key, None)]  # type: ignore[list-item]  # the caller refuses other kinds of key
    if not keys or keys[0][0] is None:
        raise KeyUnusable(
            f"{path} holds certificates, but no private key.", hint="Export it again, with the private key."
        )
    # Windows keeps its own name for the container on the key, and the one that people gave on the certificate.
    named = [(key, names.get(spki_sha256(key.public_key())) or name) for key, name in keys]
    return Contents(named, [bag.certificate for bag in bags if is_readable(bag.certificate)])


@CRYPTOGRAPHY
def write(key: PrivateKey, chain: Sequence[Certificate], password: Secret | None, name: str) -> bytes:
    """Return a PKCS#12 with AES-256 and an HMAC of SHA-256; unencrypted where there is no password."""
    from cryptography.hazmat.primitives.serialization import pkcs12

    leaf, issuers = (chain[0], chain[1:]) if chain else (None, ())
    return pkcs12.serialize_key_and_certificates(name.encode(), key, leaf, issuers or None, _encryption(password))


def _encryption(password: Secret | None) -> KeySerializationEncryption:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat, pkcs12

    if password is None:
        return NoEncryption()
    builder = PrivateFormat.PKCS12.encryption_builder()
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(SHA256())
    return builder.build(password.reveal().encode())


def _definite(octets: bytes, path: Path) -> bytes:
    """Return the PKCS#12 in DER and by itself; `cryptography` warns of BER, and of anything behind the end."""
    if octets.startswith(bytes((_SEQUENCE, _INDEFINITE))):
        from asn1crypto.pkcs12 import Pfx  # type: ignore[import-untyped]

        try:
            octets = Pfx.load(octets).dump(force=True)
        except ValueError as error:
            raise _cut_off(path) from error
    begin, end = _content(octets)
    if octets[begin : begin + len(_VERSION_3)] != _VERSION_3:
        pem = b"-----BEGIN " in octets
        hint = f"It is PEM: write pem:{path}." if pem else "It takes PKCS#12: `openssl pkcs12 -info -in FILE`."
        raise KeyUnusable(f"{path} is not a PFX file.", hint=hint)
    if end > len(octets):
        raise _cut_off(path)
    return octets[:end]


def _content(octets: bytes) -> tuple[int, int]:
    """Return where the content of the outermost SEQUENCE begins and ends (X.690, section 8.1); 0, 0 for another."""
    if len(octets) < 2 or octets[0] != _SEQUENCE:  # noqa: PLR2004 - tag and length
        return 0, 0
    length, begin = octets[1], 2
    if length > _INDEFINITE:
        begin += length - _INDEFINITE
        length = int.from_bytes(octets[2:begin], "big")
    return begin, begin + length


def _cut_off(path: Path) -> KeyUnusable:
    return KeyUnusable(f"{path} is cut off: its end is missing.", hint="Copy it again, in binary mode.")


def _unlock(der: bytes, password: Secret | None, path: Path) -> tuple[PKCS12KeyAndCertificates, bytes]:
    """Return the content and the password that gave it: none at all and an empty one are two things in PKCS#12."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509 import InvalidVersion

    candidates = (None, b"") if password is None else (password.reveal().encode(),)
    refusal: Exception | None = None
    for candidate in candidates:
        try:
            with parsing():
                return pkcs12.load_pkcs12(der, candidate), candidate or b""
        except InvalidVersion as error:
            raise KeyUnusable(f"{path} holds a certificate that cannot be read.", hint="Export it again.") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            refusal = error
    if password is None:
        raise SecretRequired(f"{path} needs a password.", hint="Add ?password=env:NAME to the URI.") from refusal
    raise SecretIncorrect(
        f"The password does not open {path}.", hint="Correct it. If it is right, the file is damaged: copy it again."
    ) from refusal


def _every_key(der: bytes, password: bytes, path: Path) -> list[tuple[PrivateKey, str | None]]:
    from asn1crypto.pkcs12 import Pfx, SafeContents
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    keys = []
    try:
        contents = (info for info in Pfx.load(der).authenticated_safe if info["content_type"].native == "data")
        for bag in (bag for info in contents for bag in SafeContents.load(info["content"].native)):
            kind = bag["bag_id"].native
            if kind in ("key_bag", "pkcs8_shrouded_key_bag"):
                octets = bag["bag_value"].untag().dump()
                with parsing():
                    key = load_der_private_key(octets, None if kind == "key_bag" else password)
                keys.append((key, _friendly_name(bag["bag_attributes"].native)))
    # asn1crypto parses late, and what is damaged shows as it comes; TypeError also: encrypted with an empty password.
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(
            f"{path} holds several keys, and one that cannot be read.", hint="Export each to a file of its own."
        ) from error
    return keys  # type: ignore[return-value]  # the caller refuses other kinds of key


def _friendly_name(attributes: Sequence[dict[str, object]] | None) -> str | None:
    for attribute in attributes or ():
        match attribute:
            case {"type": "friendly_name", "values": [str(name), *_]}:
                return name
    return None


def _text(name: bytes | None) -> str | None:
    return None if name is None else name.decode(errors="replace")
