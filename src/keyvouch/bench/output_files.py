"""Writing reports and plots."""

from __future__ import annotations

from pathlib import Path

from keyvouch._system import files
from keyvouch.errors import ConfigurationError


def plot_format(path: Path) -> str:
    """Return "png" or "svg", by the ending of a file's name. Raises `ConfigurationError` for another ending."""
    ending = path.suffix.lower()
    if ending not in {".png", ".svg"}:
        raise ConfigurationError(f"Unsupported type of plot: {path.name}.", hint="Use .png or .svg.")
    return ending[1:]


def write_file(path: Path, data: bytes) -> None:
    """Write a file that everyone may read, completely or not at all; an existing file is replaced.

    Raises `ConfigurationError`.
    """
    try:
        files.write_private(path, data, replace=True, mode=0o644)
    except OSError as error:
        raise files.cannot_write(path, error) from error
