"""Trust in files: refuse to load, run or trust what others could have written.

On POSIX systems modes, owners, groups and POSIX access control lists decide; on Windows access rules do
(`access_rules`).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from keyvouch._system.files import posix_acl
from keyvouch._system.files.access_hints import is_own, is_special, run_hint
from keyvouch._system.files.accounts import group_name, is_private_group, user_name
from keyvouch._system.text import shell_quoted
from keyvouch.errors import ConfigurationError

_WINDOWS = sys.platform == "win32"
_ROOT_GROUPS = (0, 80) if sys.platform == "darwin" else (0,)
"""By gid. On macOS members of `admin` (80) can become root with sudo, and they own Homebrew's folders."""


class ForeignWriter(msgspec.Struct, frozen=True):
    """An account or group, other than the owner, that can write to a file or folder."""

    subject: str
    """A name that can be the subject of a sentence."""
    remedy: str
    """The command that removes the permission, without the path."""

    def hint(self, status: os.stat_result, path: Path) -> str:
        """Return a hint to remove the permission: with the command for a file of this account or of root."""
        if is_special(status.st_mode):
            return "Use a regular file: this is a device, a pipe or a socket."
        if status.st_uid and not is_own(status):
            return f"Ask {user_name(status.st_uid)}, its owner, to remove that permission, or use a file of your own."
        return run_hint(f"{self.remedy} {shell_quoted(path)}", as_root=not is_own(status))


def check_trusted(path: Path) -> None:
    """Refuse what others could have written: a configuration, a module, a program; and the folders above it.

    The file and each folder above it must belong to root or to this account, and nobody else may be able to write to
    it. Group write permission is accepted only for root's group and for a private group of the owner or of this
    account. A folder with the sticky bit may be writable, since nobody can replace the files of others there. The same
    applies to symbolic links on the path and to their targets.

    Raises `ConfigurationError`, and OSErrors as they come.
    """
    os.path.realpath(path, strict=True)  # raises OSError for links that form a loop
    _check(path, set())


def check_trusted_certificates(path: Path) -> None:
    """Apply `check_trusted` to certificates trusted for TLS: a file, or a folder with everything in it."""
    os.path.realpath(path, strict=True)
    seen: set[Path] = set()
    _check(path, seen)
    if path.is_dir():
        for each in sorted(path.iterdir()):
            if each.exists():  # OpenSSL skips links that are dangling or form a loop
                _check(each, seen)


def _check(path: Path, seen: set[Path]) -> None:
    """Check a path; `seen` holds the files and folders that have already been checked."""
    for component in _components_of(path.absolute(), seen):
        _check_access_rules(path, component) if _WINDOWS else _check_mode(path, component)


def _check_mode(path: Path, component: Path) -> None:
    if sys.platform == "win32":
        return
    status = component.lstat()
    if writer := foreign_writer(status, str(component)):
        raise ConfigurationError(
            f"{path} is not trusted: {writer.subject} can write to {component}.",
            hint=writer.hint(status, component),
        )
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            f"{path} is not trusted: {component} belongs to another user (uid {status.st_uid}).",
            hint=_owner_hint(status, component),
        )


def _owner_hint(status: os.stat_result, component: Path) -> str:
    if is_special(status.st_mode):
        return "Use a regular file of your own."
    change = "chown -h root" if stat.S_ISLNK(status.st_mode) else "chown root"
    who = "" if os.geteuid() == 0 else " as root"
    return f"Run{who}: {change} {shell_quoted(component)}\nOr use a file of your own."


def foreign_writer(status: os.stat_result, component: str) -> ForeignWriter | None:
    """Return someone other than the owner, root and this account who can write to a file; None if nobody can.

    `component` is the path that has this status. Raises OSError if its access control list cannot be read.
    """
    mode = status.st_mode
    if sys.platform == "win32" or stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        return None
    if mode & stat.S_IWOTH:
        return ForeignWriter("everyone", "chmod o-w")
    if not mode & stat.S_IWGRP:  # with an access control list, this bit belongs to the mask: no named entry can write
        return None
    return next(_group_writers(status, posix_acl.read(component)), None)


def _group_writers(status: os.stat_result, acl: bytes | None) -> Iterator[ForeignWriter]:
    """Yield those who can write through a group or an access control list."""
    if sys.platform == "win32":
        return
    known = {0, status.st_uid, os.geteuid()}
    entries = posix_acl.writers(acl) if acl else [posix_acl.Entry(posix_acl.GROUP_OBJECT, posix_acl.WRITE, 0)]
    for entry in entries:
        if entry.tag == posix_acl.USER:
            if entry.account not in known:
                name = user_name(entry.account)
                yield ForeignWriter(f"the user {name}", f"setfacl -x u:{name}")
            continue
        group = status.st_gid if entry.tag == posix_acl.GROUP_OBJECT else entry.account
        if not _is_trusted_group(group, known):
            name = group_name(group)
            remedy = "chmod g-w" if entry.tag == posix_acl.GROUP_OBJECT else f"setfacl -x g:{name}"
            yield ForeignWriter(f"the group {name}", remedy)


def _is_trusted_group(group: int, accounts: set[int]) -> bool:
    return group in _ROOT_GROUPS or any(is_private_group(group, account) for account in accounts)


def _check_access_rules(path: Path, component: Path) -> None:
    """Refuse what others could have written according to Windows access rules."""
    if sys.platform == "win32":
        from keyvouch._system.windows import access_rules
        from keyvouch._system.windows import files as windows_files

        user = windows_files.this_user()
        try:
            rules = windows_files.rules_at(component)
        except PermissionError:
            if component == path.absolute():
                raise
            raise ConfigurationError(
                f"{path} is not trusted: this account cannot read the access rules of {component}.",
                hint=access_rules.hint_to_grant_read_rules(str(component), user),
            ) from None
        folder, root = os.path.isdir(component), component == component.parent
        if problem := access_rules.distrust(str(component), rules, user, folder=folder, root=root):
            raise ConfigurationError(f"{path} is not trusted: {problem[0]}.", hint=problem[1])


def _components_of(path: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the path and every folder above it; for a link, also everything on the path to its target.

    Stops at a path that is already in `seen`, since the folders above it are in `seen` too.
    """
    for component in (path, *path.parents):
        if component in seen:
            return
        seen.add(component)
        yield component
        if target := _link_target(component):
            yield from _components_of(component.parent / target, seen)


def _link_target(component: Path) -> str | None:
    """Return the target of a link; None if it is not a link. A Windows junction does not count as a symbolic link."""
    if not _WINDOWS:
        return os.readlink(component) if component.is_symlink() else None
    try:
        return os.readlink(component)
    except (OSError, ValueError):  # not a reparse point, or not a link: a file kept in a cloud
        return None
