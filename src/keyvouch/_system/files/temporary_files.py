"""Temporary files beside the file that they will replace, and the removal of those that interrupted writes left."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator

from keyvouch._system.files import posix_acl
from keyvouch._system.files.folders import Folder
from keyvouch._system.files.locks import try_lock

_WINDOWS = sys.platform == "win32"
_MAX_NAME_BYTES = 255
"""Maximum length of a file name in bytes, on the usual file systems."""
_LOCK_GRACE_PERIOD = 60.0
"""Seconds, far more than a process needs between creating a temporary file and locking it."""

log = logging.getLogger("keyvouch")


@contextlib.contextmanager
def temporary_file(folder: Folder, name: str, data: bytes, set_access: Callable[[int], None]) -> Iterator[str]:
    """Yield the temporary name of a complete file with access rights set by `set_access`; it is removed at the end."""
    remove_leftovers(folder, name)
    handle, temporary = _create_beside(folder, name)
    try:
        with open(handle, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            set_access(handle)
            os.fsync(handle)
            if _WINDOWS:
                file.close()  # an open file cannot be renamed
            yield temporary
    finally:
        _remove_temporary(folder, temporary)


def _remove_temporary(folder: Folder, temporary: str) -> None:
    """Remove a temporary file; warn if that fails, as in an append-only folder."""
    try:
        folder.remove(temporary)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning(
            "Failed to remove %s: %s. It may contain a private key.", folder.path / temporary, error.strerror or error
        )


def _create_beside(folder: Folder, name: str) -> tuple[int, str]:
    """Create a temporary file for a destination of this name. It stays locked while it is being written."""
    while True:
        temporary = _temporary_prefix(name) + os.urandom(8).hex()
        handle = folder.create(temporary)
        if _WINDOWS:  # nobody else can open it
            return handle, temporary
        if _lock_if_supported(handle) and os.fstat(handle).st_nlink:
            posix_acl.replace(handle, None)  # the folder's default list would apply as soon as the mode allows it
            return handle, temporary
        os.close(handle)  # another process has just taken it for a leftover
        with contextlib.suppress(FileNotFoundError):
            folder.remove(temporary)


def _lock_if_supported(handle: int) -> bool:
    try:
        return try_lock(handle)
    except OSError:  # the file system has no locks, so nobody removes leftovers there
        return True


def _temporary_prefix(name: str) -> str:
    """Return the prefix of a file's temporary names; 16 hexadecimal digits follow."""
    suffix = ".keyvouch-"
    most = _MAX_NAME_BYTES - len(suffix) - 17
    return "." + os.fsdecode(os.fsencode(name)[:most]) + suffix


def remove_leftovers(folder: Folder, name: str) -> None:
    """Remove the temporary files of interrupted writes to this file: each may hold a whole key."""
    pattern = re.compile(re.escape(_temporary_prefix(name)) + "[0-9a-f]{16}")
    try:
        names = folder.names()
    except PermissionError:  # this account may write to the folder but not list it
        return
    for each in filter(pattern.fullmatch, names):
        with contextlib.suppress(OSError):
            if _remove_if_abandoned(folder, each, name):
                log.warning(
                    "Removed %s, left by an interrupted write. It may have contained a private key.",
                    folder.path / each,
                )


def _remove_if_abandoned(folder: Folder, temporary: str, name: str) -> bool:
    """Remove a temporary file unless a process is writing to it. Raises OSError."""
    if _WINDOWS:
        folder.remove(temporary)  # PermissionError while it is open
        return True
    handle = folder.open(temporary, os.O_RDWR)
    try:
        if not try_lock(handle):
            return False
        status = os.fstat(handle)
        if not _is_leftover(status, folder, name):
            return False
        if not os.path.samestat(status, folder.status(temporary)):
            return False
        folder.remove(temporary)
        return True
    finally:
        os.close(handle)


def _is_leftover(status: os.stat_result, folder: Folder, name: str) -> bool:
    """Return True if a file with a temporary name is ours and has no other name than its destination."""
    if sys.platform == "win32":
        return True
    try:
        target: os.stat_result | None = folder.status(name)
    except FileNotFoundError:
        target = None
    if not status.st_size and time.time() - status.st_mtime < _LOCK_GRACE_PERIOD:  # it may not be locked yet
        return False
    owners = {0, os.geteuid()} | ({target.st_uid} if target else set())
    linked = target is not None and os.path.samestat(status, target)  # interrupted between link and unlink
    return stat.S_ISREG(status.st_mode) and status.st_uid in owners and status.st_nlink == 1 + linked
