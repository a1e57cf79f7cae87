"""Text in files that people write: UTF-8, and hints for what Windows tools write instead; text that can be shown."""

from __future__ import annotations

import codecs
import shlex

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16, which PowerShell 5.1 writes with `>` and Out-File."""
_POWERSHELL_QUOTES = str.maketrans({quote: quote * 2 for quote in "'\u2018\u2019\u201a\u201b"})
"""What ends a string in single quotes in PowerShell, and what stands for it in the string."""


def decode(data: bytes) -> str:
    """Return the text, without the byte order mark that some Windows editors write. Raises UnicodeDecodeError."""
    return data.removeprefix(codecs.BOM_UTF8).decode()


def advice(data: bytes, path: object, default: str = "Save it as UTF-8.") -> str:
    """Return a hint for a file with these bytes that cannot be read; for UTF-16, how to convert it to UTF-8.

    With a default, bytes of a text are taken for those of Windows' ANSI code page.
    """
    quoted = f"'{str(path).translate(_POWERSHELL_QUOTES)}'"
    convert = f"(Get-Content {quoted}) | Set-Content -Encoding utf8 {quoted}"
    if data.startswith(_UTF16):
        return f"Convert it from UTF-16, which PowerShell's > writes, to UTF-8: {convert}"
    if default and b"\0" not in data:  # Windows PowerShell reads the code page by default, PowerShell 7 does not
        return f"{default} From the encoding ANSI, in Windows PowerShell 5.1: {convert}"
    return default


def printable(text: object, *, kept: str = "") -> str:
    """Replace characters that are not printable, except those in `kept`, with `?`.

    They could control a terminal or reorder a line, and some are invalid in XML.
    """
    return "".join(each if each.isprintable() or each in kept else "?" for each in str(text))


def shell_quoted(name: object) -> str:
    """Return a name as one word of a POSIX shell, on one line: a line break in it must not look like another hint.

    Characters that are not printable are escaped as in bash and zsh.
    """
    text = str(name)
    return shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped, text))}'"


def _escaped(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    return "".join(f"\\{byte:03o}" for byte in character.encode(errors="surrogateescape"))
