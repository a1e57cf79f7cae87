"""The attributes of a `windows:` URI, and the parsing of their values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keyvouch.certificate import HashName, parse_subject
from keyvouch.errors import ConfigurationError
from keyvouch.store import Attribute
from keyvouch_windows.crypt32 import LOCATIONS

if TYPE_CHECKING:
    from cryptography.x509 import Name

_HASHES: dict[int, HashName] = {40: "sha1", 64: "sha256"}
"""Hash names by the number of hexadecimal digits."""
_SEPARATORS = re.compile("[\\s:\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Characters allowed between and around the digits, including the invisible mark copied from certmgr's dialog."""


def parse_thumbprint(value: bytes) -> str:
    """Return the digits of a thumbprint in upper case, for `Attribute.parse`. Raises ValueError."""
    digits = _SEPARATORS.sub("", value.decode()).upper()
    if re.fullmatch(r"[^0-9A-F]+([0-9A-F]{40}|[0-9A-F]{64})", digits):
        raise ValueError("delete the characters in front of the digits, which may be invisible in an editor")
    if len(digits) not in _HASHES or not re.fullmatch(r"[0-9A-F]+", digits):
        raise ValueError("expected 40 hexadecimal digits (SHA-1) or 64 (SHA-256)")
    return digits


def hash_name(digits: str) -> HashName:
    """Return the name of a thumbprint's hash."""
    return _HASHES[len(digits)]


def parse_name(value: bytes) -> Name:
    """Return a distinguished name, for `Attribute.parse`; also accepts Windows' notation. Raises ValueError."""
    try:
        return parse_subject(re.sub(r",\s+", ",", value.decode()))
    except ConfigurationError as error:
        raise ValueError(error.message) from None


def _parse_text(value: bytes) -> str:
    """Return a string to pass to Windows. Raises ValueError for a NUL: Windows would stop there and use another key."""
    if b"\0" in value:
        raise ValueError("it contains a NUL")
    return value.decode()


def _parse_location(value: bytes) -> str:
    for known in LOCATIONS:
        if known.lower() == value.decode().lower():
            return known
    raise ValueError(f"expected {' or '.join(LOCATIONS)}")


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("thumbprint", "the certificate's thumbprint: SHA-1 or SHA-256, in hexadecimal", parse=parse_thumbprint),
    Attribute(
        "subject",
        "the certificate's subject: only its common name, CN=app, or in full, CN=app,O=Contoso",
        parse=parse_name,
    ),
    Attribute("issuer", "the certificate's issuer: only its common name, or in full", parse=parse_name),
    Attribute("friendly-name", "the certificate's friendly name", parse=_parse_text),
    Attribute(
        "provider",
        "the name of the key's provider: Microsoft Software Key Storage Provider",
        place=True,
        parse=_parse_text,
    ),
    Attribute(
        "container", "the name of the key's container; also selects a key without a certificate", parse=_parse_text
    ),
    Attribute("store", "the certificate store", place=True, default="My", parse=_parse_text),
    Attribute(
        "location",
        "CurrentUser or LocalMachine; opening looks in both by default, creating requires one",
        place=True,
        required_for=frozenset({"generate"}),
        parse=_parse_location,
    ),
)
