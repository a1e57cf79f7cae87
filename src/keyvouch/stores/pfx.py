"""Reading and writing PKCS#12 (RFC 7292), which Windows calls PFX."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyvouch.algorithms import CRYPTOGRAPHY
from keyvouch.certificate import certificate_spki, is_readable, parsing, require_few, spki_sha256
from keyvouch.errors import KeyUnusable, SecretIncorrect, SecretRequired
from keyvouch.stores import asn1, limits
from keyvouch.stores.asn1 import Element
from keyvouch.stores.key_entries import FileContents

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12KeyAndCertificates
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import Secret

_DATA = bytes.fromhex("2a864886f70d010701")
"""The PKCS#7 content type for unencrypted data (RFC 2315, section 14)."""
_KEY_BAG = bytes.fromhex("2a864886f70d010c0a0101")
_SHROUDED_KEY_BAG = bytes.fromhex("2a864886f70d010c0a0102")
_FRIENDLY_NAME = bytes.fromhex("2a864886f70d010914")
"""Object identifiers from RFC 7292, appendix D, and RFC 2985, section 5.5.1."""
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_CIPHERS = tuple(map(bytes.fromhex, ("6086480165030401", "2a864886f70d03", "2a83088c9a4b3d010101", "2a831a8c9a6e0101")))
"""The OID arcs of AES, of triple DES and RC2, of Camellia, and of ARIA."""
_MAX_BYTES = 1024 * 1024
"""Maximum number of bytes; Java's file of all public CAs has a quarter of that."""

_SEQUENCE, _INDEFINITE = 0x30, 0x80
_VERSION_3 = b"\x02\x01\x03"
"""The bytes at the start of every PKCS#12, but not of a certificate or bare key."""


class _KeyBag(NamedTuple):
    """A private key outside the encrypted parts of the file."""

    data: bytes
    """The key as PKCS#8."""
    is_encrypted: bool
    name: str | None


@CRYPTOGRAPHY
def read(data: bytes, password: Secret | None, path: Path) -> FileContents:
    """Return the contents of a PKCS#12; `path` is for error messages.

    Raises `KeyUnusable` if it is not PKCS#12, contains no private key, or would take too long to open,
    `SecretRequired`, `SecretIncorrect`.
    """
    pfx = _parse(data, path)
    key_bags = _check_limits(pfx, path)
    bundle, working_password = _decrypt(pfx, password, path)
    bags = [bundle.cert, *bundle.additional_certs] if bundle.cert else bundle.additional_certs
    require_few(len(bags), path)
    names = {certificate_spki(bag.certificate): _decode_name(bag.friendly_name) for bag in bags}
    # If there are several keys, `load_pkcs12` silently returns only the first.
    # The caller refuses other kinds of keys.
    only: list[tuple[PrivateKey, str | None]] = [(bundle.key, None)]  # type: ignore[list-item]
    keys = _load_every_key(key_bags, working_password, path) if len(key_bags) > 1 else only
    if not keys or keys[0][0] is None:
        raise KeyUnusable(
            f"{path} contains certificates, but no private key.", hint="Export it again, with the private key."
        )
    # Windows puts its container name on the key, and the user's friendly name on the certificate.
    named = [(key, names.get(spki_sha256(key.public_key())) or name) for key, name in keys]
    return FileContents(named, [bag.certificate for bag in bags if is_readable(bag.certificate)])


@CRYPTOGRAPHY
def write(key: PrivateKey, chain: Sequence[Certificate], password: Secret | None, name: str) -> bytes:
    """Return a PKCS#12, written by `private_key.to_pfx`."""
    from keyvouch.private_key import to_pfx

    return to_pfx(key, chain, password, name)


def _parse(data: bytes, path: Path) -> Element:
    """Return the file's outer layer, which may be BER: `cryptography` only accepts DER without trailing data."""
    begin = _content_offset(data)
    if data[begin : begin + len(_VERSION_3)] != _VERSION_3:
        pem = b"-----BEGIN " in data
        hint = f"It is PEM: write pem:{path}." if pem else "Inspect it: `openssl pkcs12 -info -in FILE`."
        raise KeyUnusable(f"{path} is not a PFX file.", hint=hint)
    if len(data) > _MAX_BYTES:
        raise KeyUnusable(
            f"{path} has {len(data):,} bytes; the limit for a PFX file is {_MAX_BYTES:,}.",
            hint="Export only the key and its own certificates.",
        )
    try:
        return asn1.parse(data)
    except asn1.TruncatedError as error:
        raise KeyUnusable(f"{path} is truncated.", hint="Copy it again, in binary mode.") from error
    except ValueError as error:
        raise _damaged(path, error) from error


def _check_limits(pfx: Element, path: Path) -> list[_KeyBag]:
    """Return the keys outside encrypted parts. Raises `KeyUnusable` if opening the file would take too long.

    The encrypted parts can only be checked after decryption, which requires the password.
    """
    hint = f"Convert it: {_rewrite_command(path)}"
    try:
        trees = [pfx, *_plain_parts(pfx)]
        rounds = [each for tree in trees for each in limits.rounds_of(tree, path, hint)]
        limits.require_few_rounds(path, [*rounds, _mac_rounds(pfx)], hint)
        key_bags = [bag for tree in trees for bag in _key_bags(tree)]
    except ValueError as error:
        raise _damaged(path, error) from error
    limits.require_small_keys(path, (len(bag.data) for bag in key_bags))
    return key_bags


def _plain_parts(tree: Element, depth: int = 2) -> Iterator[Element]:
    """Yield the contents of octet strings of content type data: the list of safes, and the unencrypted safes in it."""
    for element in tree.walk():
        match element.children:
            case (
                Element(content=oid),
                Element(tag=b"\xa0", children=(Element(tag=asn1.OCTET_STRING, content=data), *_)),
                *_,
            ) if oid == _DATA and data:
                part = asn1.parse(data)
                yield part
                if depth > 1:
                    yield from _plain_parts(part, depth - 1)


def _mac_rounds(pfx: Element) -> int:
    """Return the rounds for the MAC if given: by default its iterations are 1 (RFC 7292, section 4)."""
    match pfx.children[2:]:
        case (Element(children=(_, _, iterations, *_)), *_):
            return limits.number(iterations)
    return 0


def _key_bags(tree: Element) -> Iterator[_KeyBag]:
    for element in tree.walk():
        match element.children:
            case (Element(tag=b"\x06", content=oid), Element(tag=b"\xa0", children=(key, *_)), *attributes) if oid in {
                _KEY_BAG,
                _SHROUDED_KEY_BAG,
            }:
                yield _KeyBag(asn1.encode(key), oid == _SHROUDED_KEY_BAG, _friendly_name(attributes))


def _rewrite_command(path: Path) -> str:
    """Return the commands that rewrite a file with OpenSSL's default settings."""
    file = shlex.quote(str(path))
    return f"openssl pkcs12 -in {file} -out key.pem && openssl pkcs12 -export -in key.pem -out NEW.pfx"


def _damaged(path: Path, error: ValueError) -> KeyUnusable:
    return KeyUnusable(f"{path} is damaged: {error}.", hint="Copy it again, in binary mode.")


def _content_offset(data: bytes) -> int:
    """Return the offset of the outermost SEQUENCE's content (X.690, section 8.1); 0 if it is not a SEQUENCE."""
    if len(data) < 2 or data[0] != _SEQUENCE:  # noqa: PLR2004 - tag and length
        return 0
    return 2 + max(0, data[1] - _INDEFINITE)


def _decrypt(pfx: Element, password: Secret | None, path: Path) -> tuple[PKCS12KeyAndCertificates, bytes]:
    """Return the contents and the password that worked: PKCS#12 distinguishes no password from an empty one."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509 import InvalidVersion

    der = asn1.encode(pfx)
    candidates = (None, b"") if password is None else (password.reveal().encode(),)
    refusal: Exception | None = None
    for candidate in candidates:
        try:
            with parsing():
                return pkcs12.load_pkcs12(der, candidate), candidate or b""
        except InvalidVersion as error:
            raise KeyUnusable(f"{path} contains an invalid certificate.", hint="Export it again.") from error
        except UnsupportedAlgorithm as error:
            raise KeyUnusable(
                f"{path} contains an unsupported type of key: {error}.",
                hint="Use RSA, P-256, P-384, P-521 or Ed25519.",
            ) from error
        except ValueError as error:
            refusal = error
    if unknown := _unknown_cipher(pfx):
        raise KeyUnusable(
            f"{path} is encrypted with an unsupported algorithm, {unknown}.",
            hint=f"Convert it to AES-256: {_rewrite_command(path)}",
        ) from refusal
    if password is None:
        raise SecretRequired(f"{path} requires a password.", hint="Add ?password=env:NAME to the URI.") from refusal
    raise SecretIncorrect(
        f"Incorrect password for {path}.",
        hint="Correct the password. If it is correct, the file is damaged: copy it again.",
    ) from refusal


def _unknown_cipher(pfx: Element) -> str | None:
    """Return the first PBES2 cipher (RFC 8018, appendix A.4) that OpenSSL does not support, as a dotted_oid identifier.

    For these, `cryptography` fails in the same way as for a wrong password.
    """
    for element in (each for tree in (pfx, *_plain_parts(pfx)) for each in tree.walk()):
        match element.children:
            case (Element(content=oid), Element(children=(_, Element(children=(Element(content=cipher), *_)), *_)), *_):
                if oid == _PBES2 and not cipher.startswith(_CIPHERS):
                    return asn1.dotted_oid(cipher)
    return None


def _load_every_key(bags: Sequence[_KeyBag], password: bytes, path: Path) -> list[tuple[PrivateKey, str | None]]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    keys = []
    try:
        for bag in bags:
            with parsing():
                key = load_der_private_key(bag.data, password if bag.is_encrypted else None)
            keys.append((key, bag.name))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: encrypted with an empty password
        raise KeyUnusable(
            f"{path} contains several keys, and one of them cannot be read.", hint="Export each key to a separate file."
        ) from error
    return keys  # type: ignore[return-value]  # the caller refuses other kinds of keys


def _friendly_name(attributes: Sequence[Element]) -> str | None:
    """Return the friendly name in a bag's attributes, a BMPString (RFC 2985, section 5.5.1)."""
    for attribute in (each for attribute_set in attributes for each in attribute_set.children):
        match attribute.children:
            case (Element(content=oid), Element(children=(Element(content=name), *_)), *_) if oid == _FRIENDLY_NAME:
                return name.decode("utf-16-be", errors="replace")
    return None


def _decode_name(name: bytes | None) -> str | None:
    return None if name is None else name.decode(errors="replace")
