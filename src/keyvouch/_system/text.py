"""Text in files that people write: UTF-8, and hints for what Windows tools write instead."""

from __future__ import annotations

import codecs

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16, which PowerShell 5.1 writes with `>` and Out-File."""


def decode(data: bytes) -> str:
    """Return the text, without the byte order mark that some Windows editors write. Raises UnicodeDecodeError."""
    return data.removeprefix(codecs.BOM_UTF8).decode()


def advice(data: bytes, path: object, default: str = "Save it as UTF-8.") -> str:
    """Return a hint for a file with these bytes that cannot be read; for UTF-16, how to convert it to UTF-8.

    With a default, bytes of a text are taken for those of Windows' ANSI code page.
    """
    convert = f"(Get-Content '{path}') | Set-Content -Encoding utf8 '{path}'"
    if data.startswith(_UTF16):
        return f"Convert it from UTF-16, which PowerShell's > writes, to UTF-8: {convert}"
    if default and b"\0" not in data:  # Windows PowerShell reads the code page by default, PowerShell 7 does not
        return f"{default} From the encoding ANSI, in Windows PowerShell 5.1: {convert}"
    return default
