"""Reading files that a person wrote: only regular files, up to a maximum size."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from keyvouch._system.files.errors import restrict_readers_hint
from keyvouch.errors import AccessDenied

_WINDOWS = sys.platform == "win32"
_MAX_BYTES = 16 * 1024 * 1024
"""Maximum size in bytes of a file that is read: keys, certificates and configurations are far smaller."""

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


def read_private_with_status(path: Path, *, any_reader: bool = False) -> tuple[bytes, os.stat_result]:
    """Read a file that contains a key or a secret, like `read_with_status`.

    Raises `AccessDenied` if everyone can read it, unless `any_reader` permits that.
    """
    with _open(path) as file:  # check the open file rather than its name, so that the file checked is the file read
        if not any_reader:
            _require_few_readers(file.fileno(), path)
        return content(file, path)


def content(file: BinaryIO, path: Path) -> tuple[bytes, os.stat_result]:
    """Read an open file; return its content and status. Raises OSError if it has grown too large."""
    status = os.fstat(file.fileno())  # before reading, so that a file written in the meantime counts as changed
    data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:  # it has grown since it was opened
        raise OSError(errno.EFBIG, "Too large", str(path))
    return data, status


def _require_few_readers(handle: int, path: Path) -> None:
    if sys.platform == "win32":
        from keyvouch._system.windows import access_rules
        from keyvouch._system.windows import files as windows_files

        problem = access_rules.too_many_readers(
            str(path.absolute()), windows_files.rules_of(handle), windows_files.this_user()
        )
        if problem:
            raise AccessDenied(f"Everyone on this machine can read {path} ({problem[0]}).", hint=problem[1])
    elif os.fstat(handle).st_mode & stat.S_IROTH:
        raise AccessDenied(f"Everyone on this machine can read {path}.", hint=restrict_readers_hint(path))


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
    if status.st_size > _MAX_BYTES:
        raise OSError(errno.EFBIG, "Too large", str(path))
