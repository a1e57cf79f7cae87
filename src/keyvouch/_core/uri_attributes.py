"""The attributes of a key's URI: how a store declares them, and those that every store has."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from keyvouch._core.uri_text import require_certificate_source

_MOST_DIGITS = 9
"""Maximum digits of a number of seconds: 31 years. Larger numbers lead to invalid dates."""


@dataclass(frozen=True)
class Attribute:
    """A URI attribute that a store declares."""

    name: str
    """With `*` at its end, any name with this prefix, such as the attributes of vendors; `*`: any other name, on both
    sides of the `?`, where it may occur several times."""
    help: str
    """One sentence, for `keyvouch stores` and the documentation."""
    query: bool = False
    """True if it comes after `?`: it says how the key is reached, not which it is."""
    connection: bool = False
    """URIs with equal values for these share one `KeyStore`."""
    place: bool = False
    """True if it gives the location of a key, now or later, and selects none by itself: other keys may be put there."""
    positional: bool = False
    """Accepts the path form. At most one attribute of a store."""
    secret: bool = False
    """A reference to a secret. Any other value is refused, and never echoed."""
    empty: bool = False
    """True if the value may be empty."""
    binary: bool = False
    """Bytes that are not text: every byte is percent-encoded when printed."""
    required_for: frozenset[str] = frozenset()
    """The purposes, "open" and "generate", that require it. The core checks this."""
    default: object = None
    """Result of `KeyUri.get` if the URI does not set it; already parsed."""
    environment: tuple[str, ...] = ()
    """Variables that give the value if the URI does not; read once, when the URI is completed."""
    parse: Callable[[bytes], object] = bytes.decode
    """Converts bytes to the value that `KeyUri.get` returns; raises ValueError with what is wrong."""


def _thumbprint(data: bytes) -> str:
    digits = data.decode().replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("expected the 64 hexadecimal digits of a SHA-256 hash")
    return digits


def parse_path(data: bytes) -> str:
    """Return a file path, for `Attribute.parse`. Raises ValueError."""
    if b"\0" in data:
        raise ValueError("a path cannot contain a NUL byte")
    return os.fsdecode(data)


def parse_flag(data: bytes) -> bool:
    """Return a boolean, for `Attribute.parse`. Raises ValueError."""
    if data not in (b"true", b"false"):
        raise ValueError("expected true or false")
    return data == b"true"


def parse_choice(*choices: str) -> Callable[[bytes], str]:
    """Return a parser that accepts one of these words, for `Attribute.parse`; it raises ValueError."""

    def parse(data: bytes) -> str:
        text = data.decode()
        if text not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return text

    return parse


def parse_certificate_source(data: bytes) -> str:
    text = parse_path(data)
    require_certificate_source(text)
    return text


def _newest(data: bytes) -> str:
    if data != b"newest":
        raise ValueError("expected newest")
    return "newest"


def _seconds(data: bytes) -> int:
    if not data.isdigit() or len(data) > _MOST_DIGITS:
        raise ValueError(f"expected a whole number of seconds, at most {_MOST_DIGITS} digits")
    return int(data)


CORE_ATTRIBUTES = (
    Attribute(
        "spki-sha256",
        "only the key with this SHA-256 of its public key (DER SubjectPublicKeyInfo), in hexadecimal",
        parse=_thumbprint,
    ),
    Attribute(
        "certificate-file",
        "file with the certificate and its chain, PEM or DER, if the store holds none for the key; or env:NAME",
        query=True,
        parse=parse_certificate_source,
    ),
    Attribute("select", "newest: from a family of keys, the newest that has settled", query=True, parse=_newest),
    Attribute(
        "settle",
        "seconds before a new member of a family is used, so that it can be registered everywhere",
        query=True,
        default=900,
        parse=_seconds,
    ),
    Attribute(
        "verify",
        "always: verify every signature with the public key, not only the first with each algorithm",
        query=True,
        parse=parse_choice("always"),
    ),
)
"""Attributes that every scheme supports."""
