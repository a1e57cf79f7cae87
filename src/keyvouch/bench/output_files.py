"""Writing reports and plots."""

from __future__ import annotations

from pathlib import Path

from keyvouch._system import files


def write_file(path: Path, data: bytes) -> None:
    """Write a file that everyone may read, completely or not at all; an existing file is replaced.

    Raises `ConfigurationError`.
    """
    try:
        files.write_private(path, data, replace=True, mode=0o644)
    except OSError as error:
        raise files.cannot_write(path, error) from error
