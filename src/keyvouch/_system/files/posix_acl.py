"""POSIX access control lists as Linux stores them, in an extended attribute (acl(5), linux/posix_acl_xattr.h)."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections.abc import Iterator, Sequence

import msgspec

USER, GROUP_OBJECT, GROUP, MASK = 0x02, 0x04, 0x08, 0x10
"""Tags of entries: a named user, the file's own group, a named group, and the maximum for these three."""
WRITE = 0x2
_NAME = "system.posix_acl_access"
_VERSION = 2
_NO_LIST = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS)


class Entry(msgspec.Struct, frozen=True):
    """An entry of an access control list. `account`: the uid or gid of a named user or group."""

    tag: int
    permissions: int
    account: int


def read(file: int | str) -> bytes | None:
    """Return the access control list of a file (descriptor or path); None if it has only its mode. Raises OSError."""
    if sys.platform != "linux":  # macOS and NFSv4 have lists of another kind, which Python cannot read
        return None
    try:
        return os.getxattr(file, _NAME)
    except OSError as error:
        if error.errno in _NO_LIST:
            return None
        raise


def replace(file: int, acl: bytes | None) -> None:
    """Set the access control list of an open file; None removes it. Raises OSError."""
    if sys.platform != "linux":
        return
    if acl is not None:
        os.setxattr(file, _NAME, acl)
        return
    with contextlib.suppress(OSError):  # nothing to remove, or the file system does not support lists
        os.removexattr(file, _NAME)


def writers(acl: bytes) -> Iterator[Entry]:
    """Yield the groups and named users that can write, after applying the mask. Raises OSError."""
    entries = _parse(acl)
    mask = next((each.permissions for each in entries if each.tag == MASK), 0o7)
    for each in entries:
        if each.tag in (USER, GROUP_OBJECT, GROUP) and each.permissions & mask & WRITE:
            yield each


def _parse(acl: bytes) -> Sequence[Entry]:
    try:
        (version,) = struct.unpack_from("<I", acl)
        entries = [Entry(*fields) for fields in struct.iter_unpack("<HHI", acl[4:])]
    except struct.error:
        version, entries = None, []
    if version != _VERSION:
        raise OSError(errno.EINVAL, "Invalid access control list")
    return entries
