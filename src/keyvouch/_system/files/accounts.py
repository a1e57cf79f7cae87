"""Names of accounts and groups, for messages, and who is in a group."""

from __future__ import annotations

import sys

_FIRST_COMMON_GROUP, _NOGROUP = 1000, 65534
"""The gids below and above belong to the system: members of `sudo`, `disk` or `shadow` can become root."""


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


def primary_group(uid: int) -> int:
    """Return an account's primary group; its own number if the databases do not know the account."""
    if sys.platform == "win32":
        return uid
    import pwd

    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


def is_private_group(group: int, account: int) -> bool:
    """Return True if the group is this account's primary group and has no other member in the databases."""
    if sys.platform == "win32":
        return False
    import grp
    import pwd

    try:
        owner, members = pwd.getpwuid(account), grp.getgrgid(group).gr_mem
    except KeyError:
        return False
    if owner.pw_gid != group or any(member != owner.pw_name for member in members):
        return False
    return all(other.pw_uid == account for other in pwd.getpwall() if other.pw_gid == group)


def may_share_with(group: int, account: int) -> bool:
    """Return True if a file for the group is a file for this account only, now and later.

    That is a private group with the account's own name, since others may join any other group; or, in a container, a
    group that the databases do not know.
    """
    if sys.platform == "win32" or group == 0:
        return False
    import pwd

    name = group_name(group)
    if name == str(group):
        return all(other.pw_uid == account for other in pwd.getpwall() if other.pw_gid == group)
    return name == user_name(account) and is_private_group(group, account)


def is_system_group(group: int) -> bool:
    """Return True for a group of the system, such as root's, `sudo` or `shadow`, but not for that of one account."""
    if sys.platform == "win32" or group == 0:
        return True
    if _FIRST_COMMON_GROUP <= group < _NOGROUP:
        return False
    import pwd

    name = group_name(group)
    return not any(each.pw_gid == group and each.pw_name == name for each in pwd.getpwall())


def may_join(group: int) -> bool:
    """Return True if the group was made to give several accounts access: not for the system, nor for one account."""
    if sys.platform == "win32" or is_system_group(group):
        return False
    import pwd

    name = group_name(group)
    return name != str(group) and not any(each.pw_gid == group or each.pw_name == name for each in pwd.getpwall())
