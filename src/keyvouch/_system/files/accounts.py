"""Names of accounts and groups, for messages."""

from __future__ import annotations

import sys


def user_name(uid: int) -> str:
    """Return an account's name, or its number if it has none."""
    if sys.platform == "win32":
        return str(uid)
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, or its number if it has none."""
    if sys.platform == "win32":
        return str(gid)
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
