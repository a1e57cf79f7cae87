"""Paths followed to open folders, through symbolic links that can be trusted.

An account that owns a folder can replace anything in it with a symbolic link at any time. So a path is followed one
component at a time, each opened relative to the folder before it, and a link is followed only if it cannot lead to
something its owner has no rights to (the idea of fs.protected_symlinks in proc_sys_fs(5), for every folder):

- A link of root or of this account is followed if nobody else could have put it there: all folders so far belong to
  root or this account, and nobody else can write to them (sticky folders excepted).
- A link of another account is followed if its target also belongs to that account.

Windows cannot open files relative to a folder: there, the path is resolved once and used as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from keyvouch._system.files.errors import cannot_write
from keyvouch._system.files.folders import NO_FOLLOW, Folder
from keyvouch._system.files.foreign_writers import foreign_writer
from keyvouch.errors import ConfigurationError

_WINDOWS = sys.platform == "win32"
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW
_MAX_LINKS = 40
"""Maximum number of links followed for one path, as on Linux."""


class Target(msgspec.Struct, frozen=True):
    """The file that a path leads to; it may not exist, and is never a link."""

    folder: Folder
    name: str
    owners: frozenset[int]
    """The accounts whose links led here: each must own the file, or the folder if the file does not exist."""
    path: Path
    """The path as given, for errors."""

    def require_owner(self, status: os.stat_result | None) -> None:
        """Raise `ConfigurationError` if the links followed may not lead to this file (None if missing)."""
        owner = self.folder.owner() if status is None else status.st_uid
        if not self.owners <= {owner}:
            raise _untrusted_link(self.path, self.name)


def absolute(path: Path) -> Path:
    """Return the absolute path. Raises `ConfigurationError` if the working directory no longer exists."""
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigurationError(
            "The working directory no longer exists.", hint="Change to an existing one."
        ) from error


def make_folder(folder: Path) -> None:
    """Create a folder that only its owner can open, and missing folders above it; an existing one is left as it is.

    Raises `ConfigurationError` if that fails.
    """
    try:
        if sys.platform == "win32":
            from keyvouch._system.windows import files as windows_files

            if not folder.is_dir():
                folder.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # another process was faster
                    windows_files.make_folder(folder)
        else:
            with open_folder(folder, make=True):
                pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def open_folder(path: Path, *, make: bool = False) -> Folder:
    """Open a folder. `make`: create it (mode 0700) and missing folders above it (0755 at most).

    Raises `ConfigurationError` for a link that must not be followed, and OSErrors as they come.
    """
    if _WINDOWS:
        return Folder(path, None)
    with _walk_path(path, make=make) as walk:
        walk.to_folder()
        return walk.reached(path)


@contextlib.contextmanager
def open_target(path: Path) -> Iterator[Target]:
    """Open the folder of the file that a path leads to, following links. Raises like `open_folder`."""
    if _WINDOWS:
        resolved = path.resolve()
        yield Target(Folder(resolved.parent, None), resolved.name, frozenset(), path)
        return
    with _walk_path(path, make=False) as walk:
        name, owners = walk.to_file()
        folder = walk.reached(Path(os.path.realpath(path)).parent)
    with folder:
        yield Target(folder, name, owners, path)


class _RequiredOwner(msgspec.Struct, frozen=True):
    """A requirement that the path reached at this point belongs to the link's owner."""

    owner: int
    link: str


class _PathWalk:
    """A path that is being followed, and the folder reached so far."""

    def __init__(self, path: Path, *, make: bool) -> None:
        self._path = path
        self._make = make
        # A relative path does not require permission to search the folders above the working directory.
        start, parts = ("/", path.parts[1:]) if path.is_absolute() else (".", path.parts)
        self._remaining: list[str | _RequiredOwner] = list(reversed(parts))
        self._links = 0
        self._folder = os.open(start, _SEARCH)
        self.shared = _is_shared(self._folder)

    def close(self) -> None:
        os.close(self._folder)

    def reached(self, path: Path) -> Folder:
        """Return the folder reached; `path` is for messages."""
        return Folder(path, os.dup(self._folder), shared=self.shared)

    def to_folder(self) -> None:
        """Follow the whole path."""
        while self._remaining:
            if (name := self._next()) is not None:
                self._enter_child(name)

    def to_file(self) -> tuple[str, frozenset[int]]:
        """Follow the path to the name of a file that is not a link; return the name and its required owners."""
        while self._remaining:
            name = self._next()
            if name is None:
                continue
            if any(isinstance(each, str) for each in self._remaining):
                self._enter_child(name)
            elif not self._follow(name):
                return name, frozenset(each.owner for each in self._remaining if isinstance(each, _RequiredOwner))
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._path))

    def _next(self) -> str | None:
        """Return the next name; None if the next item was a required owner, which has been checked."""
        each = self._remaining.pop()
        if isinstance(each, str):
            return each
        if os.fstat(self._folder).st_uid != each.owner:
            raise _untrusted_link(self._path, each.link)
        return None

    def _enter_child(self, name: str) -> None:
        try:
            self._enter(os.open(name, _SEARCH, dir_fd=self._folder))
        except FileNotFoundError:
            if not self._make or any(isinstance(each, _RequiredOwner) for each in self._remaining):
                raise  # nothing is created on the way to the target of another account's link
            self._create_child(name)
        except OSError:
            if not self._follow(name):
                raise

    def _create_child(self, name: str) -> None:
        is_last = not any(isinstance(each, str) for each in self._remaining)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(name, 0o700 if is_last else 0o755, dir_fd=self._folder)
        self._enter(os.open(name, _SEARCH, dir_fd=self._folder))

    def _enter(self, handle: int) -> None:
        os.close(self._folder)
        self._folder = handle
        self.shared = self.shared or _is_shared(handle)

    def _follow(self, name: str) -> bool:
        """Prepend a link's target to the rest of the path; return False if the name is not a link.

        The link may be replaced between `stat` and `readlink`. The link that is read is then bound by the owner of one
        that was there, in a folder whose owner could have put it there.
        """
        try:
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISLNK(status.st_mode):
            return False
        target = os.readlink(name, dir_fd=self._folder)
        self._links += 1
        if self._links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path))
        if not _is_ours(status.st_uid):
            self._remaining.append(_RequiredOwner(status.st_uid, name))
        elif self.shared:
            raise _untrusted_link(self._path, name)
        self._remaining.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        if target.startswith("/"):
            self._enter(os.open("/", _SEARCH))
        return True


@contextlib.contextmanager
def _walk_path(path: Path, *, make: bool) -> Iterator[_PathWalk]:
    walk = _PathWalk(path, make=make)
    try:
        yield walk
    finally:
        walk.close()


def _is_ours(owner: int) -> bool:
    return sys.platform == "win32" or owner in (0, os.geteuid())


def _is_shared(folder: int) -> bool:
    """Return True if another account can write to an open folder."""
    status = os.fstat(folder)
    try:
        return not _is_ours(status.st_uid) or foreign_writer(status, f"/proc/self/fd/{folder}") is not None
    except OSError:  # /proc is not available
        return True


def _untrusted_link(path: Path, link: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be written: another account controls the symbolic link {link!r} in its path.",
        hint="Use the path of the link's target, or run the command as that account.",
    )
