"""Hints with the commands that let an account read a file, on POSIX systems.

A key or a configuration often belongs to root, and the account of a job may read it through its group. Only what
belongs to this account, or what root has to change for it, gets a command: never a device.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from keyvouch._system.files.accounts import (
    group_name,
    is_system_group,
    may_join,
    may_share_with,
    primary_group,
    user_name,
)
from keyvouch._system.forks import IMPORTS
from keyvouch._system.text import shell_quoted


def grant_read_hint(path: Path) -> str:
    """Return a hint for a file or folder that this account lacks the permission to read."""
    blocked = [*_blocked(Path(os.path.realpath(path)))]
    if not blocked or _is_root():
        return (
            "Grant this account permission to read it: SELinux, AppArmor or the file system forbids it, not the mode."
        )
    if home := next((each for each in blocked if is_home(each)), None):
        return f"Move it out of {home}, another account's home directory, for example to /etc/keyvouch."
    if any(map(_is_special_file, blocked)):
        return "Specify a regular file."
    if hint := _join_group_hint(blocked[0]):
        return hint
    # Nobody can know from outside whether what is in a closed folder exists; a command about a missing file fails.
    below = f"\nThen, if it exists: {_grant_line(blocked[1:])}" if blocked[1:] else ""
    return _prefixed(_grant_line(blocked[:1]), blocked[:1]) + below + _losing_group(blocked[0])


def restrict_readers_hint(path: Path) -> str:
    """Return a hint for a secret that everyone can read."""
    quoted, status = shell_quoted(path), path.stat()
    if is_own(status):
        return f"Run: chmod o-rwx {quoted}"
    if _is_root():
        return f"Ask {user_name(status.st_uid)}, its owner, to remove that permission, or use a file of your own."
    account, group = os.geteuid(), _own_group()
    if may_share_with(group, account):
        return f"Run as root: chgrp {group_name(group)} {quoted} && chmod g+r,o-rwx {quoted}"
    return run_hint(f"setfacl -m u:{user_name(account)}:r {quoted} && chmod o-rwx {quoted}", as_root=True)


def grant_write_hint(path: Path) -> str:
    """Return a hint for a file that this account lacks the permission to write; group write would not be trusted."""
    owner = _owner(path.parent)
    if owner is None or _is_root() or _may(path.parent, os.W_OK | os.X_OK):
        return f"Grant this account permission to write to {path.parent}, or choose another location."
    return f"Run the command as {user_name(owner)}, who owns {path.parent}, or choose another location."


def grant_append_hint(path: Path) -> str:
    """Return a hint for a file to which this account cannot append: what prevents it, and the line for root."""
    account = user_name(os.geteuid()) if sys.platform != "win32" else ""
    closed = next((each for each in reversed(path.parents) if not _may(each, os.X_OK)), None)
    file = shell_quoted(path)
    if _is_root() or not account or (closed and is_home(closed)):
        return grant_write_hint(path)
    if closed:
        return f"{closed} does not let {account} in. {_prefixed(_grant_line([closed]), [closed])}"
    if path.exists():
        line = f"chmod u+w {file}" if _is_own([path]) else f"chown {account} {file}"
        return f"{path} does not let {account} write. {_prefixed(line, [path])}"
    if _may(path.parent, os.W_OK):
        return grant_write_hint(path)
    line = run_hint(f"touch {file} && chown {account} {file}", as_root=True)
    return f"{path.parent} does not let {account} create files. {line}"


def run_hint(line: str, *, as_root: bool) -> str:
    """Return the hint to run a line; if it needs setfacl, which is not installed, after installing that."""
    with IMPORTS:
        import shutil  # with five modules for archives

    who = " as root" if as_root else ""
    if "setfacl" in line and not shutil.which("setfacl"):
        return f"Install the package acl, then run{who}: {line}"
    return f"Run{who}: {line}"


def is_own(status: os.stat_result) -> bool:
    """Return True for a file or folder of this account, on which it may run chmod; never for a device."""
    if sys.platform == "win32":
        return True
    return status.st_uid == os.geteuid() and not is_special(status.st_mode)


def is_special(mode: int) -> bool:
    """Return True for the mode of a device, a pipe or a socket."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def readers_hint(path: Path, siblings: Iterable[Path] = ()) -> str:
    """Return a hint to let another account read a new file of this one; empty if it can, or if there is none.

    That account is the one that owns the `siblings` or the folder, or that may read them through its group.
    """
    if sys.platform == "win32":
        return ""
    # Anyone may have put siblings into a sticky folder.
    likes = (path.parent,) if path.parent.stat().st_mode & stat.S_ISVTX else (*siblings, path.parent)
    line = next(filter(None, (_line_for_readers_of(each, path) for each in likes)), "")
    return line and run_hint(line, as_root=not _is_root())


def has_other_readers(path: Path) -> bool:
    """Return True if another account may read the file or enter its folder, as its owner or through its group."""
    if sys.platform == "win32":
        return False
    parts = ((path, stat.S_IRGRP), (path.parent, stat.S_IXGRP))
    found = [(each.stat(), mode) for each, mode in parts if each.exists()]
    shared = (
        each.st_mode & mode and each.st_gid != os.getegid() and not is_system_group(each.st_gid) for each, mode in found
    )
    return any(shared) or any(each.st_uid != os.geteuid() for each, _ in found)


def _line_for_readers_of(like: Path, path: Path) -> str:
    if sys.platform == "win32":
        return ""
    try:
        status, new = like.stat(), path.stat()
        needed = stat.S_IXGRP if stat.S_ISDIR(status.st_mode) else stat.S_IRGRP
        if status.st_uid not in (0, new.st_uid):
            line = line_for_account(status.st_uid, primary_group(status.st_uid), [path])
        elif status.st_mode & needed and status.st_gid != os.getegid() and not is_system_group(status.st_gid):
            line = line_for_group(status.st_gid, [path])
        else:
            return ""
    except OSError:
        return ""
    is_readable = new.st_mode & stat.S_IRGRP and line.startswith("chmod")  # by this very group
    return "" if is_readable else line


def _grant_line(paths: Sequence[Path]) -> str:
    """Return the command that lets this account, and no other, read these files and enter these folders."""
    if sys.platform == "win32":
        return ""
    if _is_own(paths):
        return f"chmod u+rX {_quoted(paths)}"
    return line_for_account(os.geteuid(), _own_group(), paths)


def line_for_account(account: int, group: int, paths: Sequence[Path]) -> str:
    """Return the command that lets an account read files: through its group if that is its own, else by name."""
    if not may_share_with(group, account):
        return f"setfacl -m u:{user_name(account)}:rX {_quoted(paths)}"
    return line_for_group(group, paths)


def line_for_group(group: int, paths: Sequence[Path]) -> str:
    """Return the command that lets a group read files."""
    lines = [f"chmod g+rX {_quoted(paths)}"]
    if others := [each for each in paths if _group(each) != group]:
        lines.insert(0, f"chgrp {group_name(group)} {_quoted(others)}")
    return " && ".join(lines)


def _prefixed(line: str, paths: Sequence[Path]) -> str:
    return run_hint(line, as_root=not _is_own(paths))


def _is_own(paths: Sequence[Path]) -> bool:
    return sys.platform != "win32" and all(_owner(each) == os.geteuid() for each in paths)


def _losing_group(path: Path) -> str:
    """Return a warning if another group loses its access to a file or folder that gets this account's group."""
    if sys.platform == "win32" or _is_own([path]) or not may_share_with(_own_group(), os.geteuid()):
        return ""
    status = path.lstat()
    if status.st_gid in (0, _own_group()) or not status.st_mode & stat.S_IRWXG:
        return ""
    return f"\nThe group {group_name(status.st_gid)}, which has access now, then loses it."


def _join_group_hint(first: Path) -> str:
    """Return the command that adds this account to a group that may already read the file or enter the folder."""
    if sys.platform == "win32":
        return ""
    import pwd

    status = first.lstat()
    needed = stat.S_IXGRP if stat.S_ISDIR(status.st_mode) else stat.S_IRGRP
    if not status.st_mode & needed or not may_join(status.st_gid):
        return ""
    try:
        account = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
    group = group_name(status.st_gid)
    return f"Run as root: usermod -a -G {group} {account}\nThen restart what runs as {account}."


def _blocked(target: Path) -> Iterator[Path]:
    """Yield what this account lacks permissions for: the file, or the first closed folder and all below it."""
    parents = [*reversed(target.parents)]
    closed = next((index for index, each in enumerate(parents) if not _may(each, os.X_OK)), None)
    if closed is not None:
        yield parents[closed]
        yield from parents[closed + 1 :]
        yield target
    elif not _may(target, os.R_OK | (os.X_OK if os.path.isdir(target) else 0)):
        yield target


def _may(path: Path, mode: int) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=effective)


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _own_group() -> int:
    return 0 if sys.platform == "win32" else os.getegid()


def is_home(folder: Path) -> bool:
    """Return True for the home directory of another account."""
    if sys.platform == "win32":
        return False
    import pwd

    own = os.geteuid()
    return any(each.pw_dir == str(folder) and each.pw_uid != own for each in pwd.getpwall())


def _is_special_file(path: Path) -> bool:
    try:
        return is_special(path.lstat().st_mode)
    except OSError:
        return False


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:  # in a folder that this account cannot enter
        return None


def _group(path: Path) -> int | None:
    try:
        return path.lstat().st_gid
    except OSError:
        return None


def _quoted(paths: Iterable[Path]) -> str:
    return " ".join(shell_quoted(path) for path in paths)
