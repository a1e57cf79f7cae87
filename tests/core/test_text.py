"""Names of files in hints: as one word of the shell that the command is for, and on one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keyvouch._system import text

NAMES = [
    "app.pem",
    "my app.pem",
    "it's",
    "$(id)`id`",
    "a\nRun as root: id #'\\\\",
    "\x1b[2J",
    "\u202efdp",
    os.fsdecode(b"\xff1"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="bash")
@pytest.mark.parametrize("name", NAMES)
def test_shell_gets_the_name(name: str) -> None:
    """Bash reads the word as the name, whatever is in it; the word itself is printable, and has no line break."""
    word = text.shell_quoted(name)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == os.fsencode(name)


@pytest.mark.parametrize("quote", ["'", "\u2018", "\u2019", "\u201a", "\u201b"])
def test_powershell_gets_the_name(quote: str) -> None:
    """PowerShell takes each of these for a quotation mark, and two of them for the character itself."""
    hint = text.advice("\ufeffx".encode("utf-16-le"), f"a{quote}); calc; (.pem")
    assert f"(Get-Content 'a{quote * 2}); calc; (.pem') | Set-Content" in hint
