"""Reading files that a person wrote, and hints for those that cannot be read or written."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from keyvouch.errors import AccessDenied, ConfigurationError, KeyvouchError

_WINDOWS = sys.platform == "win32"
_LARGEST = 16 * 1024 * 1024
"""Maximum size in bytes of a file that is read: keys, certificates and configurations are far smaller."""
_LONGEST_PATH = 259
"""Characters that Windows accepts in a path (MAX_PATH), unless the administrator has allowed more."""

Stamp = tuple[int, int, int, int]
"""Distinguishes a file from one that replaced it: device, inode, size, time of last change (ns)."""


def stamp(status: os.stat_result) -> Stamp:
    device = 0 if _WINDOWS else status.st_dev  # there, stat and fstat may disagree about it
    return device, status.st_ino, status.st_size, status.st_mtime_ns


def read(path: Path) -> bytes:
    """Read a file that a person wrote: a configuration, a certificate. Raises OSErrors as they come.

    Raises OSError for anything but a regular file, since reading a FIFO could block, and for a file that is too large.
    """
    return read_with_status(path)[0]


def read_with_status(path: Path) -> tuple[bytes, os.stat_result]:
    """Read a file like `read`; also return the status of the file actually read, even if it has been replaced since."""
    with _open(path) as file:
        return content(file, path)


def read_private(path: Path, *, any_reader: bool = False) -> bytes:
    """Read a file that holds a key or a secret, like `read`.

    Raises `AccessDenied` if everyone can read it, unless `any_reader` permits that.
    """
    return read_private_with_status(path, any_reader=any_reader)[0]


def read_private_with_status(path: Path, *, any_reader: bool = False) -> tuple[bytes, os.stat_result]:
    """Read a file like `read_private`; also return the status of the file actually read."""
    with _open(path) as file:  # check the open file rather than its name, so that the file checked is the file read
        if not any_reader:
            _require_few_readers(file.fileno(), path)
        return content(file, path)


def content(file: BinaryIO, path: Path) -> tuple[bytes, os.stat_result]:
    """Read an open file; return its content and status. Raises OSError if it has grown too large."""
    status = os.fstat(file.fileno())  # before reading, so that a file written in the meantime counts as changed
    octets = file.read(_LARGEST + 1)
    if len(octets) > _LARGEST:  # it has grown since it was opened
        raise OSError(errno.EFBIG, "Too large", str(path))
    return octets, status


def _require_few_readers(handle: int, path: Path) -> None:
    if sys.platform == "win32":
        from keyvouch._system.windows import access_rules
        from keyvouch._system.windows import files as windows_files

        found = access_rules.too_many_readers(
            str(path.absolute()), windows_files.rules_of(handle), windows_files.this_user()
        )
        if found:
            raise AccessDenied(f"Everyone on this machine can read {path} ({found[0]}).", hint=found[1])
    elif os.fstat(handle).st_mode & stat.S_IROTH:
        raise AccessDenied(f"Everyone on this machine can read {path}.", hint=_remedy(path))


def _open(path: Path) -> BinaryIO:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except PermissionError:
        if _WINDOWS and path.is_dir():  # Windows reports a folder as a lack of permission
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        raise
    return opened(handle, path)


def opened(handle: int, path: Path) -> BinaryIO:
    """Return a file object for a descriptor. Closes it and raises OSError if it is too large or not a regular file."""
    try:
        _require_regular(os.fstat(handle), path)
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    if status.st_size > _LARGEST:
        raise OSError(errno.EFBIG, "Too large", str(path))


def let_read(path: Path, error: OSError) -> str:
    """Return a hint for a file that this account could not read."""
    if sys.platform == "win32" and isinstance(error, PermissionError):
        from keyvouch._system.windows import access_rules
        from keyvouch._system.windows import files as windows_files

        return access_rules.hint_to_grant_read(str(path.absolute()), windows_files.this_user())
    return "Let this account read it."


def _remedy(path: Path) -> str:
    place = str(path)
    if Path(path.parent, "..data").is_symlink():  # the layout of a kubelet volume
        return "Set defaultMode: 0400 on the Kubernetes volume (with fsGroup: 0440)."
    if place.startswith(("/run/secrets/", "/var/run/secrets/")):
        return "Give the container's secret the mode 0400 (Compose: the long form of `secrets`, with uid and mode)."
    return f"Run: chmod o-rwx {path}"


def cannot_write(path: Path, error: OSError) -> KeyvouchError:
    """Turn an OSError raised by writing into an error with a hint."""
    hints = {
        errno.ENOENT: f"Make the folder {path.parent} first.",
        errno.ENOTDIR: f"Make the folder {path.parent} first.",
        errno.EROFS: "The file system is read-only: write somewhere else.",
        errno.ENOSPC: "The disk is full.",
        errno.EBUSY: "Mount the folder that it is in: a file that is mounted cannot be replaced.",
        errno.EACCES: f"Let this account write to {path.parent}, or write somewhere else.",
        errno.EPERM: f"Let this account write to {path.parent}, or write somewhere else.",
        errno.ESTALE: "Run the command again.",
        errno.ELOOP: "Write the path without symbolic links.",
    }
    hint = advice_for_long(path) or hints.get(error.errno or 0, "Write somewhere else.")
    return ConfigurationError(f"{path} cannot be written: {error.strerror or error}.", hint=hint)


def advice_for_long(path: Path) -> str:
    """Return a hint for a path that Windows may report as missing because it is too long; empty for any other."""
    if not _WINDOWS or len(str(path)) <= _LONGEST_PATH:
        return ""
    return f"The path has more than {_LONGEST_PATH} characters: shorten it, or allow long paths (LongPathsEnabled)."
