"""Copying the owner, mode and access rules of a file to the one that replaces it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keyvouch._system.files import posix_acl
from keyvouch._system.files.foreign_writers import check_trusted
from keyvouch._system.files.path_resolution import Target
from keyvouch.errors import ConfigurationError

if TYPE_CHECKING:
    from keyvouch.security_descriptor import SecurityDescriptor

_CHOWN_DENIED = (errno.EPERM, errno.EACCES, errno.EINVAL)
"""Errors when an account gives a file away without permission; EINVAL if the uid is not mapped in a container."""


class AccessRights(msgspec.Struct, frozen=True):
    """Access rights of a file."""

    status: os.stat_result
    acl: bytes | None
    """Its POSIX access control list."""
    rules: SecurityDescriptor | None
    """Access rules; only on Windows."""


def access_rights_of(target: Target) -> AccessRights | None:
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

            return AccessRights(status, None, windows_files.rules_of(handle))
        return AccessRights(status, posix_acl.read(handle), None)
    finally:
        os.close(handle)


def set_mode(handle: int, *, mode: int) -> None:
    if sys.platform != "win32" and stat.S_IMODE(os.fstat(handle).st_mode) != mode:
        os.fchmod(handle, mode)


def let_group_read(handle: int, *, group: int) -> None:
    """Let a group read a private file, if this account may give it to the group; else it stays private."""
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):
            os.fchown(handle, -1, group)
            os.fchmod(handle, 0o640)


def common_group(paths: Sequence[Path]) -> int | None:
    """Return the group that can read all these files of this account; None if there is none, or others wrote there.

    A file with an access control list has no such group: its mode does not say what the group may do.
    """
    if sys.platform == "win32" or not paths:
        return None
    try:
        check_trusted(paths[0].parent)
        found = {_reading_group(each) for each in paths}
    except (OSError, ConfigurationError):
        return None
    return found.pop() if len(found) == 1 else None


def _reading_group(path: Path) -> int | None:
    status = path.lstat()
    is_own_file = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    if not is_own_file or not status.st_gid or not status.st_mode & stat.S_IRGRP or posix_acl.read(str(path)):
        return None
    return status.st_gid


def copy_access(handle: int, *, like: AccessRights | None) -> None:
    """Give an open file the access rights of another; without one it stays private, or on Windows gets the folder's."""
    if sys.platform == "win32":
        from keyvouch import security_descriptor
        from keyvouch._system.windows import files as windows_files

        rules = like.rules if like else None
        windows_files.set_rules(handle, rules or security_descriptor.SecurityDescriptor())
    elif like:
        keeps_group = _copy_owner(handle, like.status)
        # Never setuid or setgid, and no group permissions unless the group is unchanged.
        set_mode(handle, mode=like.status.st_mode & (0o777 if keeps_group else 0o707))
        if keeps_group and like.acl:
            posix_acl.replace(handle, like.acl)


def _copy_owner(handle: int, status: os.stat_result) -> bool:
    """Give an open file another's owner and group as far as permitted; return True if it has the group."""
    if sys.platform == "win32":
        return True
    for owner in (status.st_uid, -1):  # only root may give a file away, but its owner may change the group
        try:
            os.fchown(handle, owner, status.st_gid)
        except OSError as error:
            if error.errno not in _CHOWN_DENIED:
                raise
        else:
            break
    return os.fstat(handle).st_gid == status.st_gid
