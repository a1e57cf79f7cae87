"""Folders that are held open, so that changes to their paths cannot redirect a write.

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
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from keyvouch._system.files import trust
from keyvouch._system.files.reading import cannot_write
from keyvouch.errors import ConfigurationError

_WINDOWS = sys.platform == "win32"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_MOST_LINKS = 40
"""Maximum number of links followed for one path, as on Linux."""


class Folder:
    """An open folder; a context manager."""

    def __init__(self, path: Path, handle: int | None, *, shared: bool = False) -> None:
        self.path = path
        self.shared = shared
        """True if an account other than root and this one could have put files there."""
        self._handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._handle is not None:
            os.close(self._handle)

    def _at(self, name: str) -> str:
        return str(self.path / name) if self._handle is None else name

    def owner(self) -> int:
        """Return the uid of the folder's owner."""
        return os.stat(self.path if self._handle is None else self._handle).st_uid

    def is_sticky(self) -> bool:
        """Return True if others can create files in it but not replace those of this account, as in /tmp."""
        return bool(os.stat(self.path if self._handle is None else self._handle).st_mode & stat.S_ISVTX)

    def writer(self) -> trust.Writer | None:
        """Return someone other than the owner, root and this account who can write to the folder. Raises OSError."""
        if self._handle is None:
            return None
        return trust.writer(os.fstat(self._handle), f"/proc/self/fd/{self._handle}")

    def close_to_others(self) -> None:
        """Let only the owner write to the folder; this also masks an access control list. Raises OSError."""
        if self._handle is not None:
            mode = stat.S_IMODE(os.fstat(self._handle).st_mode)
            os.chmod(".", mode & ~(stat.S_IWGRP | stat.S_IWOTH), dir_fd=self._handle)

    def open(self, name: str, flags: int) -> int:
        """Open a file, but not through a link, and without waiting for the other end of a FIFO. Raises OSError.

        If these flags create the file, it has mode 0600.
        """
        return os.open(self._at(name), flags | _NO_LINK, 0o600, dir_fd=self._handle)

    def create(self, name: str) -> int:
        """Create a file with mode 0600 and return its descriptor, open for writing. Raises OSErrors, FileExistsError.

        On Windows nobody else can open it until it is closed.
        """
        if sys.platform == "win32":
            from keyvouch._system.windows import files as windows_files

            return windows_files.create(self.path / name)
        return self.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def status(self, name: str) -> os.stat_result:
        """Return the status of a file, or of the link itself. Raises OSError."""
        return os.stat(self._at(name), dir_fd=self._handle, follow_symlinks=False)

    def replace(self, name: str, by: str) -> None:
        """Rename `by` to `name`, replacing any file of that name. Raises OSError."""
        os.replace(self._at(by), self._at(name), src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def rename(self, source: str, name: str) -> None:
        """Rename a file. Raises OSErrors; on Windows FileExistsError if the name is taken."""
        os.rename(self._at(source), self._at(name), src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def link(self, source: str, name: str) -> None:
        """Give a file a second name. Raises OSErrors, FileExistsError."""
        os.link(
            self._at(source),
            self._at(name),
            src_dir_fd=self._handle,
            dst_dir_fd=self._handle,
            follow_symlinks=False,
        )

    def remove(self, name: str) -> None:
        """Delete a file or a link. Raises OSError."""
        os.unlink(self._at(name), dir_fd=self._handle)

    def flush(self) -> None:
        """Flush the folder's current entries to disk, if the file system supports that."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._handle)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def remove_whatever(self, name: str) -> None:
        """Delete a file, a link itself, or a folder with its contents. Raises OSErrors, FileNotFoundError."""
        if stat.S_ISDIR(self.status(name).st_mode):
            shutil.rmtree(self._at(name), dir_fd=self._handle)
        else:
            self.remove(name)

    def names(self) -> list[str]:
        """Return the names of the folder's entries. Raises OSError."""
        if self._handle is None:
            return os.listdir(self.path)
        handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._handle)
        try:
            return os.listdir(handle)
        finally:
            os.close(handle)


class Target(NamedTuple):
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
            raise _refused(self.path, self.name)


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
    with _walking(path, make=make) as walk:
        walk.to_folder()
        return walk.reached(path)


@contextlib.contextmanager
def open_target(path: Path) -> Iterator[Target]:
    """Open the folder of the file that a path leads to, following links. Raises like `open_folder`."""
    if _WINDOWS:
        resolved = path.resolve()
        yield Target(Folder(resolved.parent, None), resolved.name, frozenset(), path)
        return
    with _walking(path, make=False) as walk:
        name, owners = walk.to_file()
        folder = walk.reached(Path(os.path.realpath(path)).parent)
    with folder:
        yield Target(folder, name, owners, path)


class _Claim(NamedTuple):
    """A requirement that the path reached at this point belongs to the link's owner."""

    owner: int
    link: str


class _Walk:
    """A path that is being followed, and the folder reached so far."""

    def __init__(self, path: Path, *, make: bool) -> None:
        self._path = path
        self._make = make
        # A relative path does not require permission to search the folders above the working directory.
        start, parts = ("/", path.parts[1:]) if path.is_absolute() else (".", path.parts)
        self._left: list[str | _Claim] = list(reversed(parts))
        self._links = 0
        self._here = os.open(start, _SEARCH)
        self.shared = _is_shared(self._here)

    def close(self) -> None:
        os.close(self._here)

    def reached(self, path: Path) -> Folder:
        """Return the folder reached; `path` is for messages."""
        return Folder(path, os.dup(self._here), shared=self.shared)

    def to_folder(self) -> None:
        """Follow the whole path."""
        while self._left:
            if (name := self._next()) is not None:
                self._descend(name)

    def to_file(self) -> tuple[str, frozenset[int]]:
        """Follow the path to the name of a file that is not a link; return the name and its required owners."""
        while self._left:
            name = self._next()
            if name is None:
                continue
            if any(isinstance(each, str) for each in self._left):
                self._descend(name)
            elif not self._follow(name):
                return name, frozenset(each.owner for each in self._left if isinstance(each, _Claim))
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._path))

    def _next(self) -> str | None:
        """Return the next name; None if the next item was a claim, which has been checked."""
        each = self._left.pop()
        if isinstance(each, str):
            return each
        if os.fstat(self._here).st_uid != each.owner:
            raise _refused(self._path, each.link)
        return None

    def _descend(self, name: str) -> None:
        try:
            self._enter(os.open(name, _SEARCH, dir_fd=self._here))
        except FileNotFoundError:
            if not self._make or any(isinstance(each, _Claim) for each in self._left):
                raise  # nothing is created on the way to the target of another account's link
            self._make_below(name)
        except OSError:
            if not self._follow(name):
                raise

    def _make_below(self, name: str) -> None:
        is_last = not any(isinstance(each, str) for each in self._left)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(name, 0o700 if is_last else 0o755, dir_fd=self._here)
        self._enter(os.open(name, _SEARCH, dir_fd=self._here))

    def _enter(self, handle: int) -> None:
        os.close(self._here)
        self._here = handle
        self.shared = self.shared or _is_shared(handle)

    def _follow(self, name: str) -> bool:
        """Prepend a link's target to the rest of the path; return False if the name is not a link.

        The link may be replaced between `stat` and `readlink`. The link that is read is then bound by the owner of one
        that was there, in a folder whose owner could have put it there.
        """
        try:
            status = os.stat(name, dir_fd=self._here, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISLNK(status.st_mode):
            return False
        target = os.readlink(name, dir_fd=self._here)
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self._path))
        if not _is_ours(status.st_uid):
            self._left.append(_Claim(status.st_uid, name))
        elif self.shared:
            raise _refused(self._path, name)
        self._left.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        if target.startswith("/"):
            self._enter(os.open("/", _SEARCH))
        return True


@contextlib.contextmanager
def _walking(path: Path, *, make: bool) -> Iterator[_Walk]:
    walk = _Walk(path, make=make)
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
        return not _is_ours(status.st_uid) or trust.writer(status, f"/proc/self/fd/{folder}") is not None
    except OSError:  # /proc is not available
        return True


def _refused(path: Path, link: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be written: another account controls the symbolic link {link!r} on the way to it.",
        hint="Write the path that it leads to, or run the command as that account.",
    )
