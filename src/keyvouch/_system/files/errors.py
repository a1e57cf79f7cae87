"""Errors and hints for files that cannot be read or written."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from keyvouch._system.files import access_hints
from keyvouch.errors import ConfigurationError, KeyvouchError

_WINDOWS = sys.platform == "win32"
_MAX_PATH = 259
"""Characters that Windows accepts in a path, unless the administrator has allowed more."""


def read_hint(path: Path, error: OSError) -> str:
    """Return a hint for a file that this account could not read."""
    if sys.platform == "win32" and isinstance(error, PermissionError):
        from keyvouch._system.windows import access_rules
        from keyvouch._system.windows import files as windows_files

        return access_rules.hint_to_grant_read(str(path.absolute()), windows_files.this_user())
    if isinstance(error, IsADirectoryError):
        return "Specify a file, not a folder."
    if not isinstance(error, PermissionError):
        return "Check the path and its file system."
    return access_hints.grant_read_hint(path)


def restrict_readers_hint(path: Path) -> str:
    """Return a hint for a secret that everyone can read."""
    if Path(path.parent, "..data").is_symlink():  # the layout of a kubelet volume
        return "Set defaultMode: 0400 on the Kubernetes volume (with fsGroup: 0440)."
    if str(path).startswith(("/run/secrets/", "/var/run/secrets/")):
        return "Set the container's secret to mode 0400 (Compose: the long form of `secrets`, with uid and mode)."
    return access_hints.restrict_readers_hint(path)


def cannot_write(path: Path, error: OSError) -> KeyvouchError:
    """Turn an OSError raised by writing into an error with a hint."""
    hints = {
        errno.ENOENT: f"Create the folder {path.parent} first.",
        errno.ENOTDIR: f"Create the folder {path.parent} first.",
        errno.EROFS: "Choose another location: the file system is read-only.",
        errno.ENOSPC: "Free some space: the disk is full.",
        errno.EBUSY: "Mount its folder instead: a mounted file cannot be replaced.",
        errno.EACCES: access_hints.grant_write_hint(path),
        errno.EPERM: access_hints.grant_write_hint(path),
        errno.ESTALE: "Run the command again.",
        errno.ELOOP: "Use a path without symbolic links.",
    }
    long = long_path_hint(path)
    hint = long or hints.get(error.errno or 0, "Choose another location.")
    reason = "its folder does not exist" if error.errno == errno.ENOENT and not long else error.strerror or error
    return ConfigurationError(f"{path} cannot be written: {reason}.", hint=hint)


def require_folder_of(path: Path) -> None:
    """Raise the error of `cannot_write` for a new file if its folder is missing, or this account may not enter it."""
    try:
        is_folder = stat.S_ISDIR(path.parent.stat().st_mode)
    except OSError as error:
        raise cannot_write(path, error) from error
    if not is_folder:
        raise cannot_write(path, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))


def long_path_hint(path: Path) -> str:
    """Return a hint for a path that Windows may report as missing because it is too long; empty for any other."""
    if not _WINDOWS or len(str(path)) <= _MAX_PATH:
        return ""
    return f"Shorten the path to {_MAX_PATH} characters, or enable long paths (LongPathsEnabled)."
