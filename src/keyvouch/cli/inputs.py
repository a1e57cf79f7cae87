"""What a command reads: files, standard input, and a user's answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from keyvouch._system import files

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri


def is_interactive() -> bool:
    """Return True if a user can be prompted."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    if sys.platform == "win32":  # on Windows, NUL, a possible stdin of scheduled tasks, also claims to be a terminal
        from keyvouch._system.windows import files as windows_files

        return windows_files.is_console(sys.stdin.fileno())
    return True


def read_stream(file: BinaryIO) -> bytes:
    """Read a file that click has opened, or standard input."""
    try:
        return file.read()
    except OSError as error:
        raise click.UsageError(f"Cannot read {file.name}: {error.strerror}.") from None


def read_path(path: Path) -> bytes:
    """Read a file given as a path, which must be a regular file, or standard input for `-`."""
    if str(path) == "-":
        return read_stream(sys.stdin.buffer)
    try:
        return files.read(path)
    except OSError as error:
        raise click.UsageError(f"Cannot read {path}: {error.strerror}.") from None


def relative_path(uri: KeyUri) -> Path | None:
    """Return the URI's path if it is relative, and so depends on the working directory; None for any other URI."""
    path = uri.get("path") if "path" in uri else None
    return path if isinstance(path, Path) and not path.is_absolute() else None
