"""Text in files that people write: UTF-8, and the advice for what the tools of Windows make of it."""

from __future__ import annotations

import codecs

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""What UTF-16 begins with: how PowerShell 5.1 writes by `>` and Out-File."""


def decode(octets: bytes) -> str:
    """Return the text, without the mark that some editors on Windows begin UTF-8 with. Raises UnicodeDecodeError."""
    return octets.removeprefix(codecs.BOM_UTF8).decode()


def advice(octets: bytes, path: object, otherwise: str = "Save it as UTF-8.") -> str:
    """Return what makes a file with these octets one that can be read: of UTF-16 how it becomes UTF-8."""
    if octets.startswith(_UTF16):
        return (
            "It is UTF-16, as PowerShell's > writes it. "
            f"Run there: (Get-Content '{path}') | Set-Content -Encoding utf8 '{path}'"
        )
    return otherwise
