"""Writing reports and plots."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from keyvouch._system import files
from keyvouch.errors import ConfigurationError


def plot_format(path: Path) -> str:
    """Return "png" or "svg", by the ending of a file's name. Raises `ConfigurationError` for another ending."""
    ending = path.suffix.lower()
    if ending not in {".png", ".svg"}:
        raise ConfigurationError(f"Unsupported type of plot: {path.name}.", hint="Use .png or .svg.")
    return ending[1:]


def require_writable(path: Path) -> None:
    """Raise `ConfigurationError` if it is known before a long measurement that `write_file` will fail.

    Devices are refused, since the file would replace them.
    """
    if path.is_dir():
        raise files.cannot_write(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    files.require_folder_of(path)
    folder = path.parent.resolve()
    if (path.exists() and not path.is_file()) or folder == Path("/dev") or folder.is_relative_to("/proc"):
        raise ConfigurationError(
            f"{path} cannot be written: it is not a regular file.", hint="Choose another location."
        )
    if not os.access(folder, os.W_OK):
        raise files.cannot_write(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def write_file(path: Path, data: bytes) -> None:
    """Write a file that everyone may read, completely or not at all; an existing file is replaced.

    Raises `ConfigurationError`.
    """
    try:
        files.write_private(path, data, replace=True, mode=0o644)
    except OSError as error:
        raise files.cannot_write(path, error) from error
