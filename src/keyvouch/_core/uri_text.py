"""How the values of a URI are printed and read, in general and for a scheme with a standard of its own."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from keyvouch._secrets.redaction import KEY_REFERENCE_KINDS, REDACTED, REFERENCE_KINDS

_UNRESERVED = f"{string.ascii_letters}{string.digits}-._~".encode()
QUOTES = "'\"\u2018\u2019\u201a\u201b"
"""Characters that end quoted text: PowerShell treats curly quotes like straight ones."""


@dataclass(frozen=True)
class UriSyntax:
    """How a store's URIs differ from others, if a standard defines its scheme."""

    path_characters: str | None = None
    """Characters printed as they are before `?`, besides ASCII letters, digits and `-._~`; None: all readable ones."""
    query_characters: str | None = None
    """The same after `?`."""
    after_query: frozenset[str] = frozenset()
    """Attributes of the core that identify a key, but are printed after `?`, where other programs ignore unknown
    attributes. Accepted on both sides."""


def encode_readable(data: bytes, keep: str = "") -> str:
    """Percent-encode what would end the value, confuse a reader or a shell, or is not printable text.

    Spaces are printed as they are, since `%20` means something else in a batch file: except at an end, where nobody
    would see them, and if there may be a user name, which would then not be recognized and redacted.
    """
    text = data.decode(errors="surrogateescape")
    special = {*QUOTES, *"%?;&#", *(" " if "@" in text or text != text.strip(" ") else "")} - {*keep}
    encoded = "".join(
        character if character.isprintable() and character not in special else percent(character) for character in text
    )
    return _without_marks(encoded)


def encode_except(data: bytes, characters: str) -> str:
    """Percent-encode all bytes except ASCII letters, digits, `-._~` and these characters."""
    kept = {*_UNRESERVED, *characters.encode()}
    return _without_marks("".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in data))


def encode_all(data: bytes) -> str:
    """Percent-encode every byte."""
    return "".join(f"%{byte:02X}" for byte in data)


def percent(character: str) -> str:
    """Percent-encode one character."""
    return encode_all(character.encode(errors="surrogateescape"))


def _without_marks(encoded: str) -> str:
    return encoded.replace(REDACTED, "%2A" * len(REDACTED))  # only omitted text is shown like this


def require_certificate_source(text: str) -> None:
    """Raise ValueError, without the value, if it is neither a path nor a reference to certificates."""
    if text.partition(":")[0] == "file" and ":" in text:
        raise ValueError("write the path without file:")
    is_any_reference = text.startswith(tuple(f"{kind}:" for kind in (*REFERENCE_KINDS, *KEY_REFERENCE_KINDS)))
    if is_any_reference and not is_certificate_reference(text):
        raise ValueError("expected a path, env:NAME or credential:name")


def is_certificate_reference(text: str) -> bool:
    """Return True for `env:NAME` and `credential:name`. A file with such a name is `./env:NAME`."""
    return re.fullmatch(r"env:[\w.-]+|credential:[^/]+", text) is not None
