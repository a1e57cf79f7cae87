"""POSIX access control lists for tests, as setfacl(1) would set them."""

import os
import struct
from pathlib import Path

_USER_OBJECT, _USER, _GROUP_OBJECT, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF


def acl(
    *,
    owner: int = 6,
    users: dict[int, int] | None = None,
    group: int = 0,
    groups: dict[int, int] | None = None,
    mask: int = 7,
) -> bytes:
    """Return the attribute that gives these permissions (rwx as bits 4, 2 and 1) to accounts, and none to others."""
    entries = [(_USER_OBJECT, owner, _NOBODY)]
    entries += [(_USER, permissions, uid) for uid, permissions in sorted((users or {}).items())]
    entries += [(_GROUP_OBJECT, group, _NOBODY)]
    entries += [(_GROUP, permissions, gid) for gid, permissions in sorted((groups or {}).items())]
    entries += [(_MASK, mask, _NOBODY), (_OTHER, 0, _NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_acl(path: Path, attribute: bytes, *, default: bool = False) -> None:
    """Set the list of a file or folder; `default`: the list for what is created in a folder."""
    os.setxattr(path, f"system.posix_acl_{'default' if default else 'access'}", attribute)


def acl_of(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return None
