"""Writing files completely or not at all, readable only by those who should read them.

A file is written under a temporary name beside its destination. Its open descriptor gets the owner, mode and access
control list before the file gets its name. The folder is held open throughout (`path_resolution`): an account that owns
it can spoil its contents, but cannot redirect the write to a file elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
import sys
import time
from pathlib import Path

from keyvouch._system.files.copied_access import access_rights_of, copy_access, let_group_read, set_mode
from keyvouch._system.files.folders import Folder
from keyvouch._system.files.path_resolution import Target, open_folder, open_target
from keyvouch._system.files.reading import Stamp, stamp
from keyvouch._system.files.temporary_files import remove_leftovers, temporary_file

_WINDOWS = sys.platform == "win32"
_RENAME_TIMEOUT = 1.0
"""Seconds to wait while another process reads a file that is being replaced; needed only on Windows."""


def write_private(
    path: Path, data: bytes, *, replace: bool = False, mode: int = 0o600, group: int | None = None
) -> None:
    """Write a new file completely or not at all, with mode 0600 unless `mode` is given (not on Windows).

    With a `group`, that group can read it (mode 0640), if this account may give it to the group.

    Raises FileExistsError if a file exists and `replace` is false, other OSErrors as they come, `ConfigurationError`
    for a folder that is reached through a link of another account.
    """
    with open_folder(path.parent) as folder:
        write_into(folder, path.name, data, replace=replace, mode=mode, group=group)


def write_into(
    folder: Folder, name: str, data: bytes, *, replace: bool = False, mode: int = 0o600, group: int | None = None
) -> None:
    """Write a file into an open folder, like `write_private`."""
    set_access = (
        functools.partial(set_mode, mode=mode) if group is None else functools.partial(let_group_read, group=group)
    )
    with temporary_file(folder, name, data, set_access) as temporary:
        (_replace if replace else _link)(folder, temporary, name)
        folder.flush()


def rewrite(path: Path, data: bytes, *, replaces: Stamp | None = None) -> None:
    """Replace a complete file, keeping its owner, mode and access control list; a link remains a link.

    A new file has mode 0600; on Windows its folder determines who can read it, since a configuration may be for service
    accounts. `replaces` is the stamp of the file that `data` was derived from: if the file has been replaced since,
    OSError (ESTALE) is raised. Raises other OSErrors as they come, `ConfigurationError` for a link of another account.
    """
    with open_target(path) as target:
        before = access_rights_of(target)
        status = before.status if before else None
        target.require_owner(status)
        if replaces and (status is None or stamp(status) != replaces):
            raise OSError(errno.ESTALE, "The file has changed since it was read", str(path))
        set_access = functools.partial(copy_access, like=before)
        with temporary_file(target.folder, target.name, data, set_access) as temporary:
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
        remove_leftovers(folder, path.name)


def _replace(folder: Folder, temporary: str, name: str) -> None:
    """Give the finished file its name. On Windows, wait while another process reads the old file."""
    deadline = time.monotonic() + _RENAME_TIMEOUT
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
