"""Text in files that people write: UTF-8, and hints for what Windows tools write instead."""

from __future__ import annotations

import codecs

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16, which PowerShell 5.1 writes with `>` and Out-File."""


def decode(octets: bytes) -> str:
    """Return the text, without the byte order mark that some Windows editors write. Raises UnicodeDecodeError."""
    return octets.removeprefix(codecs.BOM_UTF8).decode()


def advice(octets: bytes, path: object, otherwise: str = "Save it as UTF-8.") -> str:
    """Return a hint for a file with these bytes that cannot be read; for UTF-16, how to convert it to UTF-8."""
    if octets.startswith(_UTF16):
        return (
            "It is UTF-16, as PowerShell's > writes it. "
            f"Run there: (Get-Content '{path}') | Set-Content -Encoding utf8 '{path}'"
        )
    return otherwise
