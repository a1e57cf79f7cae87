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
_BETWEEN = re.compile("[\\s:\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Characters allowed between and around the digits, including the invisible mark copied from certmgr's dialog."""


def thumbprint(octets: bytes) -> str:
    """Return the digits of a thumbprint in upper case, for `Attribute.parse`. Raises ValueError."""
    digits = _BETWEEN.sub("", octets.decode()).upper()
    if len(digits) not in _HASHES or not re.fullmatch(r"[0-9A-F]+", digits):
        raise ValueError("a thumbprint has 40 hexadecimal digits (SHA-1), or 64 (SHA-256)")
    return digits


def hash_of(digits: str) -> HashName:
    """Return the name of a thumbprint's hash."""
    return _HASHES[len(digits)]


def name(octets: bytes) -> Name:
    """Return a distinguished name, for `Attribute.parse`; also accepts Windows' notation. Raises ValueError."""
    try:
        return parse_subject(re.sub(r",\s+", ",", octets.decode()))
    except ConfigurationError as error:
        raise ValueError(error.message) from None


def _text(octets: bytes) -> str:
    """Return a string to pass to Windows. Raises ValueError for a NUL: Windows would stop there and use another key."""
    if b"\0" in octets:
        raise ValueError("it has a NUL in it")
    return octets.decode()


def _location(octets: bytes) -> str:
    for known in LOCATIONS:
        if known.lower() == octets.decode().lower():
            return known
    raise ValueError(f"it is {' or '.join(LOCATIONS)}")


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("thumbprint", "of the certificate, SHA-1 or SHA-256, in hexadecimal", parse=thumbprint),
    Attribute("subject", "of the certificate: CN=app, or CN=app,O=Contoso in full", parse=name),
    Attribute("issuer", "of the certificate: CN=Issuing CA, or CN=Issuing CA,O=Contoso in full", parse=name),
    Attribute("friendly-name", "that somebody gave the certificate", parse=_text),
    Attribute("provider", "of the key, by its name: Microsoft Software Key Storage Provider", place=True, parse=_text),
    Attribute("container", "of the key, by its name: also of a key without certificate", parse=_text),
    Attribute("store", "of the certificate: My", place=True, default="My", parse=_text),
    Attribute(
        "location",
        "CurrentUser or LocalMachine; a key is looked for in both, and made in the one that is named",
        place=True,
        required_for=frozenset({"generate"}),
        parse=_location,
    ),
)
