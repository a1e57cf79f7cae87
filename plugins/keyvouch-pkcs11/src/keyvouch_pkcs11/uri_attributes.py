"""The attributes of a `pkcs11:` URI (RFC 7512), and their values for a module, a token and a key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keyvouch.errors import ConfigurationError
from keyvouch.store import Attribute, KeyUri, UriSyntax
from keyvouch.uri import parse_choice, parse_flag
from keyvouch_pkcs11.cryptoki import CKF_TOKEN_INITIALIZED, Cryptoki, decode_padded

if TYPE_CHECKING:
    from keyvouch_pkcs11.objects import PrivateKeyObject

TOKEN_ATTRIBUTES = ("token", "manufacturer", "serial", "model", "slot-id")
SLOT_ATTRIBUTES = ("slot-description", "slot-manufacturer")
LIBRARY_ATTRIBUTES = ("library-manufacturer", "library-description", "library-version")
PIN_SOURCE = "pin-source"


SYNTAX = UriSyntax(
    # The characters of RFC 7512, section 2.3, except ', * and ?, which a shell or keyvouch might misunderstand.
    path_characters=":[]@!$()+,=&",
    query_characters=":[]@!$()+,=/|",
    # Before the ?, other programs would find no key, since they do not know the attribute.
    after_query=frozenset({"spki-sha256"}),
)
_SYNONYMS = {"label": "object", "name": "object", "key": "object", "slot": "slot-id", "token-label": "token"}
"""What attributes are called in options of other programs, such as pkcs11-tool."""
_TYPES = ("private", "public", "cert", "secret-key", "data")
_LARGEST_VERSION = 255


def _parse_slot_id(value: bytes) -> str:
    if not value.isdigit():
        raise ValueError("expected a number")
    return str(int(value))


def _parse_version(value: bytes) -> str:
    """Return a version as `library_attributes` does; a missing minor number is 0."""
    major, _, minor = value.partition(b".")
    numbers = [major, minor] if b"." in value else [major, b"0"]
    if not all(each.isdigit() and int(each) <= _LARGEST_VERSION for each in numbers):
        raise ValueError("expected a version such as 2.6")
    return ".".join(str(int(each)) for each in numbers)


def _parse_pin_source(value: bytes) -> str:
    """Return a secret reference for a pin-source of RFC 7512 (section 2.4): a file path or URI, or | and a command."""
    text = value.decode()
    if text.startswith("|"):
        return f"command:{text[1:]}"
    if text.startswith("file:///"):
        return f"file:{text.removeprefix('file://')}"
    return f"file:{text}" if text.startswith("/") else text


ATTRIBUTES = (
    Attribute("token", "the token's label", empty=True),
    Attribute("manufacturer", "the token's manufacturer", empty=True),
    Attribute("serial", "the token's serial number", empty=True),
    Attribute("model", "the token's model", empty=True),
    Attribute("slot-id", "the slot's number; may change after a restart", parse=_parse_slot_id),
    Attribute("slot-description", "the slot's description", empty=True),
    Attribute("slot-manufacturer", "the slot's manufacturer", empty=True),
    Attribute("library-manufacturer", "the module's manufacturer", empty=True),
    Attribute("library-description", "the module's description", empty=True),
    Attribute("library-version", "the module's version, such as 2.6", parse=_parse_version),
    Attribute("object", "the key's label (CKA_LABEL)", empty=True, parse=bytes),
    Attribute("id", "the key's CKA_ID, percent-encoded bytes such as %01%A2", empty=True, binary=True, parse=bytes),
    Attribute("type", "private: other types can be written, but match no key", parse=parse_choice(*_TYPES)),
    Attribute("module-path", "the path of the module's file", query=True, connection=True, parse=os.fsdecode),
    Attribute("module-name", "the module's name in p11-kit's configuration", query=True, connection=True),
    Attribute(
        "serialise",
        "true: one call at a time, for a module that is not thread-safe",
        query=True,
        connection=True,
        default=False,
        parse=parse_flag,
    ),
    Attribute(
        PIN_SOURCE,
        "the PIN: a secret reference or, as in RFC 7512, a file's path, or | and a program",
        query=True,
        secret=True,
        parse=_parse_pin_source,
    ),
    Attribute("*", "attributes of vendors: ignored after the ?; before it, they match no key", query=True, empty=True),
)


def library_attributes(functions: Cryptoki) -> dict[str, str]:
    """Return the values of a module's attributes. Raises `CryptokiError`."""
    info = functions.info()
    return {
        "library-manufacturer": decode_padded(info.manufacturer),
        "library-description": decode_padded(info.description),
        "library-version": f"{info.version.major}.{info.version.minor}",
    }


def token_attributes(functions: Cryptoki, slot: int) -> dict[str, str] | None:
    """Return the values of a token's attributes; None if it is not initialized. Raises `CryptokiError`."""
    token = functions.token_info(slot)
    if not token.flags & CKF_TOKEN_INITIALIZED:
        return None
    return {
        "token": decode_padded(token.label),
        "manufacturer": decode_padded(token.manufacturer),
        "model": decode_padded(token.model),
        "serial": decode_padded(token.serial),
        "slot-id": str(slot),
    }


def slot_attributes(functions: Cryptoki, slot: int) -> dict[str, str]:
    """Return the values of a slot's own attributes. Raises `CryptokiError`."""
    info = functions.slot_info(slot)
    return {
        "slot-description": decode_padded(info.description),
        "slot-manufacturer": decode_padded(info.manufacturer),
    }


def gives_any(uri: KeyUri, names: Sequence[str]) -> bool:
    """Return whether the URI has a value for any of these attributes."""
    return any(each in uri for each in names)


def matches(uri: KeyUri, attributes: Mapping[str, str]) -> bool:
    """Return whether the URI agrees with these values, as far as it gives them (RFC 7512, section 2.5)."""
    return all(uri.get(name) in (None, value) for name, value in attributes.items())


def require_matchable(uri: KeyUri) -> None:
    """Raise `ConfigurationError` if the URI cannot match a private key, whatever is on the token."""
    if unknown := uri.undeclared:
        raise ConfigurationError(
            f"Unknown attribute {', '.join(unknown)}: before the `?`, no key matches it (RFC 7512, section 2.5).",
            hint=f"Write {_with_known_names(uri, unknown).quoted}.",
            uri=uri,
        )
    if uri.get("type") not in (None, "private"):
        raise ConfigurationError(
            f"Only a private key can sign; the URI selects type={uri.get('type')}.",
            hint=f"Write {uri.replace({'type': 'private'}).quoted}.",
            uri=uri,
        )


def _with_known_names(uri: KeyUri, unknown: Sequence[str]) -> KeyUri:
    """Return the URI with the attributes that these names stand for in other programs, without the other ones."""
    values = zip(unknown, uri.raw_values(unknown), strict=True)
    renamed = {_SYNONYMS[name]: value for name, value in values if _SYNONYMS.get(name, name) not in uri}
    return uri.replace({**dict.fromkeys(unknown), **renamed})


def with_hexadecimal_id(uri: KeyUri) -> KeyUri | None:
    """Return the URI with the id that its `id=` means if it is read as hexadecimal; None if it cannot be."""
    text = (uri.get("id") or b"").decode("ascii", "replace").removeprefix("0x").replace(":", "").replace(" ", "")
    try:
        key_id = bytes.fromhex("0" * (len(text) % 2) + text)
    except ValueError:
        return None
    return uri.replace({"id": key_id}) if key_id else None


def module_uri(uri: KeyUri) -> KeyUri:
    """Return the URI of all tokens of the module."""
    names = (*TOKEN_ATTRIBUTES, *SLOT_ATTRIBUTES, *LIBRARY_ATTRIBUTES, "object", "id", "spki-sha256", PIN_SOURCE)
    return uri.replace(dict.fromkeys(names))


def token_uri(uri: KeyUri, attributes: Mapping[str, str]) -> KeyUri:
    """Return the URI with the token's label and serial number."""
    return uri.replace({each: attributes[each] for each in ("token", "serial")})


def pinned_uri(uri: KeyUri, attributes: Mapping[str, str], key: PrivateKeyObject, digest: str) -> KeyUri:
    """Return the URI of exactly this key on the token; `digest`: its `spki_sha256`."""
    return token_uri(uri, attributes).replace(
        {
            "object": key.label or None,
            "id": key.id or None,
            "spki-sha256": digest,
            "select": None,
            "settle": None,
        }
    )
