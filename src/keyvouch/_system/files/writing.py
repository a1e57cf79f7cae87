"""Writing files completely or not at all, readable only by those who should read them.

A file is written under a temporary name beside its destination. Its open descriptor gets the owner, mode and access
control list before the file gets its name. The folder is held open throughout (`folders`): an account that owns it can
spoil its contents, but cannot redirect the write to a file elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyvouch._system.files import posix_acl
from keyvouch._system.files.folders import Folder, Target, open_folder, open_target
from keyvouch._system.files.locks import try_lock
from keyvouch._system.files.reading import Stamp, stamp

if TYPE_CHECKING:
    from keyvouch.security_descriptor import SecurityDescriptor

_WINDOWS = sys.platform == "win32"
_LONGEST_NAME = 255
"""Maximum length of a file name in bytes, on the usual file systems."""
_READING = 1.0
"""Seconds to wait while another process reads a file that is being replaced; needed only on Windows."""
_CREATING = 60.0
"""Seconds, far more than a process needs between creating a temporary file and locking it."""
_NOT_OURS = (errno.EPERM, errno.EACCES, errno.EINVAL)
"""Errors when an account gives a file away without permission; EINVAL if the uid is not mapped in a container."""

log = logging.getLogger("keyvouch")


def write_private(path: Path, data: bytes, *, replace: bool = False, mode: int = 0o600) -> None:
    """Write a new file completely or not at all, with mode 0600 unless `mode` is given (not on Windows).

    Raises FileExistsError if a file exists and `replace` is false, other OSErrors as they come, `ConfigurationError`
    for a folder that is reached through a link of another account.
    """
    with open_folder(path.parent) as folder:
        write_into(folder, path.name, data, replace=replace, mode=mode)


def write_into(folder: Folder, name: str, data: bytes, *, replace: bool = False, mode: int = 0o600) -> None:
    """Write a file into an open folder, like `write_private`."""
    settle = functools.partial(_set_mode, mode=mode)
    with _written_beside(folder, name, data, settle) as temporary:
        (_replace if replace else _link)(folder, temporary, name)
        folder.flush()


def rewrite(path: Path, data: bytes, *, replaces: Stamp | None = None) -> None:
    """Replace a complete file, keeping its owner, mode and access control list; a link remains a link.

    A new file has mode 0600; on Windows its folder determines who can read it, since a configuration may be for service
    accounts. `replaces` is the stamp of the file that `data` was derived from: if the file has been replaced since,
    OSError (ESTALE) is raised. Raises other OSErrors as they come, `ConfigurationError` for a link of another account.
    """
    with open_target(path) as target:
        before = _access_to(target)
        status = before.status if before else None
        target.require_owner(status)
        if replaces and (status is None or stamp(status) != replaces):
            raise OSError(errno.ESTALE, "The file has been replaced meanwhile", str(path))
        settle = functools.partial(_give_access, like=before)
        with _written_beside(target.folder, target.name, data, settle) as temporary:
            _replace(target.folder, temporary, target.name)
            target.folder.flush()


def open_to_append(path: Path) -> int:
    """Open a file for appending, through trusted links; a new file has mode 0600. Return its descriptor.

    Raises OSErrors as they come, also for a FIFO without a reader; `ConfigurationError` for a link of another account.
    """
    if (descriptor := _open_descriptor(str(path))) is not None:
        return descriptor
    with open_target(path) as target:
        handle = _open_or_create(target, os.O_WRONLY | os.O_APPEND)
        try:
            _require_own_file(target, os.fstat(handle))
            if not _WINDOWS:
                os.set_blocking(handle, True)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _open_descriptor(path: str) -> int | None:
    """Open a descriptor of this process by its path, or a pipe of another process, such as a container's output.

    Returns None for any other path. A link to a pipe has no path behind it that could be followed.
    """
    if own := re.fullmatch(r"/dev/std(out|err)|/(?:dev|proc/self)/fd/(\d{1,9})", path):
        return os.dup(int(own[2]) if own[2] else 1 + (own[1] == "err"))
    if not re.fullmatch(r"/proc/\d{1,9}/fd/\d{1,9}", path):
        return None
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    if stat.S_ISFIFO(os.fstat(handle).st_mode):
        os.set_blocking(handle, True)
        return handle
    os.close(handle)
    return None


def _open_or_create(target: Target, flags: int) -> int:
    while True:
        try:
            return target.folder.open(target.name, flags)
        except FileNotFoundError:
            target.require_owner(None)
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.close(target.folder.create(target.name))


def _require_own_file(target: Target, status: os.stat_result) -> None:
    """Raise `ConfigurationError` or OSError for a file that another account created, linked or redirected to."""
    target.require_owner(status)
    if sys.platform == "win32" or not (target.folder.shared or target.folder.is_sticky()):
        return
    is_file = stat.S_ISREG(status.st_mode)
    if is_file and status.st_nlink > 1:
        raise OSError(errno.EPERM, "The file has several hard links", str(target.path))
    # An owner may do anything with a file in its own folder, but its FIFO must not block the caller.
    if status.st_uid not in {0, os.geteuid()} | ({target.folder.owner()} if is_file else set()):
        raise OSError(errno.EPERM, "The file belongs to another account", str(target.path))


def truncate(path: Path) -> None:
    """Empty a file, which requires no space on a full disk. Raises like `write_private`, also for a hard link."""
    with open_target(path) as target:
        handle = target.folder.open(target.name, os.O_WRONLY)
        try:
            _require_own_file(target, os.fstat(handle))
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Delete a file, or the link itself, and the leftovers of interrupted writes to it. Raises like `write_private`."""
    with open_folder(path.parent) as folder:
        folder.remove(path.name)
        _remove_leftovers(folder, path.name)


class _Access(NamedTuple):
    """Access rights of a file."""

    status: os.stat_result
    acl: bytes | None
    """Its POSIX access control list."""
    rules: SecurityDescriptor | None
    """Access rules; only on Windows."""


def _access_to(target: Target) -> _Access | None:
    """Return the access rights of the regular file to be replaced; None if it does not exist. Raises OSError."""
    try:
        handle = target.folder.open(target.name, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(target.path))
        if sys.platform == "win32":
            from keyvouch._system.windows import files as windows_files

            return _Access(status, None, windows_files.rules_of(handle))
        return _Access(status, posix_acl.read(handle), None)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _written_beside(folder: Folder, name: str, data: bytes, settle: Callable[[int], None]) -> Iterator[str]:
    """Yield the temporary name of a complete file with access rights set by `settle`; it is removed at the end."""
    _remove_leftovers(folder, name)
    handle, temporary = _create_beside(folder, name)
    try:
        with open(handle, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            settle(handle)
            os.fsync(handle)
            if _WINDOWS:
                file.close()  # an open file cannot be renamed
            yield temporary
    finally:
        _discard(folder, temporary)


def _discard(folder: Folder, temporary: str) -> None:
    """Remove a temporary file; warn if that fails, as in an append-only folder."""
    try:
        folder.remove(temporary)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning(
            "%s cannot be removed: %s. It may hold a whole key.", folder.path / temporary, error.strerror or error
        )


def _create_beside(folder: Folder, name: str) -> tuple[int, str]:
    """Create a temporary file for a destination of this name. It stays locked while it is being written."""
    while True:
        temporary = _prefix(name) + os.urandom(8).hex()
        handle = folder.create(temporary)
        if _WINDOWS:  # nobody else can open it
            return handle, temporary
        if _lock(handle) and os.fstat(handle).st_nlink:
            posix_acl.replace(handle, None)  # the folder's default list would apply as soon as the mode allows it
            return handle, temporary
        os.close(handle)  # another process has just taken it for a leftover
        with contextlib.suppress(FileNotFoundError):
            folder.remove(temporary)


def _lock(handle: int) -> bool:
    try:
        return try_lock(handle)
    except OSError:  # the file system has no locks, so nobody removes leftovers there
        return True


def _prefix(name: str) -> str:
    """Return the prefix of a file's temporary names; 16 hexadecimal digits follow."""
    suffix = ".keyvouch-"
    most = _LONGEST_NAME - len(suffix) - 17
    return "." + os.fsdecode(os.fsencode(name)[:most]) + suffix


def _remove_leftovers(folder: Folder, name: str) -> None:
    """Remove the temporary files of interrupted writes to this file: each may hold a whole key."""
    pattern = re.compile(re.escape(_prefix(name)) + "[0-9a-f]{16}")
    try:
        names = folder.names()
    except PermissionError:  # this account may write to the folder but not list it
        return
    for each in filter(pattern.fullmatch, names):
        with contextlib.suppress(OSError):
            if _remove_if_abandoned(folder, each, name):
                log.warning(
                    "Removed %s, which an interrupted write left behind. It may have held a whole key.",
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
    if not status.st_size and time.time() - status.st_mtime < _CREATING:  # it may not be locked yet
        return False
    owners = {0, os.geteuid()} | ({target.st_uid} if target else set())
    linked = target is not None and os.path.samestat(status, target)  # interrupted between link and unlink
    return stat.S_ISREG(status.st_mode) and status.st_uid in owners and status.st_nlink == 1 + linked


def _set_mode(handle: int, *, mode: int) -> None:
    if sys.platform != "win32" and stat.S_IMODE(os.fstat(handle).st_mode) != mode:
        os.fchmod(handle, mode)


def _give_access(handle: int, *, like: _Access | None) -> None:
    """Give an open file the access rights of another; without one it stays private, or on Windows gets the folder's."""
    if sys.platform == "win32":
        from keyvouch import security_descriptor
        from keyvouch._system.windows import files as windows_files

        rules = like.rules if like else None
        windows_files.set_rules(handle, rules or security_descriptor.SecurityDescriptor())
    elif like:
        keeps_group = _give_owner(handle, like.status)
        # Never setuid or setgid, and no group permissions unless the group is unchanged.
        _set_mode(handle, mode=like.status.st_mode & (0o777 if keeps_group else 0o707))
        if keeps_group and like.acl:
            posix_acl.replace(handle, like.acl)


def _give_owner(handle: int, status: os.stat_result) -> bool:
    """Give an open file another's owner and group as far as permitted; return True if it has the group."""
    if sys.platform == "win32":
        return True
    for owner in (status.st_uid, -1):  # only root may give a file away, but its owner may change the group
        try:
            os.fchown(handle, owner, status.st_gid)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
        else:
            break
    return os.fstat(handle).st_gid == status.st_gid


def _replace(folder: Folder, temporary: str, name: str) -> None:
    """Give the finished file its name. On Windows, wait while another process reads the old file."""
    deadline = time.monotonic() + _READING
    while True:
        try:
            folder.replace(name, by=temporary)
        except PermissionError:
            if not _WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _link(folder: Folder, temporary: str, name: str) -> None:
    """Give the finished file its name unless it is taken; a rename cannot ensure that on POSIX."""
    if _WINDOWS:
        folder.rename(temporary, name)
        return
    try:
        folder.link(temporary, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as FAT and some network shares
        os.close(folder.create(name))  # reserves the name; raises FileExistsError if it is taken
        try:
            folder.replace(name, by=temporary)
        except OSError:
            folder.remove(name)
            raise
