"""A Windows Python under Wine: python.org's build, with keyvouch and the plugin installed from this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from windows_python import COMPILER, ROOT, downloaded, install

WINE, WINESERVER = Path("/usr/lib/wine/wine64"), Path("/usr/lib/wine/wineserver64")
_LONGEST = 300
"""Timeout of a program in seconds."""


@dataclass(frozen=True)
class Done:
    """A program's exit status and output."""

    status: int
    output: str
    errors: str


class Windows:
    """A private Windows with a Python."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG")},
            "HOME": str(folder),
            "WINEDEBUG": "-all",
            "WINEPREFIX": str(folder / "prefix"),
        }

    def start(self, program: Path, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """Run a program with these arguments until it exits."""
        done = subprocess.run(
            [WINE, program, *arguments],
            input=stdin,
            env={**self._environment, **environment},
            capture_output=True,
            timeout=_LONGEST,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith(b"wine: ")]
        return Done(done.returncode, _text(done.stdout), _text(b"".join(errors)))

    def run(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """Run Python with these arguments."""
        return self.start(self._python / "python.exe", *arguments, stdin=stdin, **environment)

    def keyvouch(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """Run the `keyvouch` command with these arguments."""
        return self.run("-m", "keyvouch", *arguments, stdin=stdin, **environment)

    def end(self) -> None:
        """Terminate all processes of this Windows."""
        subprocess.run([WINESERVER, "-k"], env=self._environment, capture_output=True, check=False)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").replace("\r\n", "\n")


def path_in_windows(path: Path) -> str:
    """Return the path inside Windows of a file on this machine."""
    return "Z:" + str(path).replace("/", "\\")


def running(folder: Path) -> Windows:
    """Return a Windows with its registry, and so its certificates, in this folder."""
    if not WINE.exists() or not shutil.which(COMPILER):
        pytest.skip("Wine or the compiler is not installed: apt-get install wine64 gcc-mingw-w64-x86-64")
    python = folder / "python"
    shutil.copytree(downloaded(), python)
    install(python, ROOT, ROOT / "plugins/keyvouch-windows")
    return Windows(python, folder)
