"""Locks between processes, on files that no other account can open: an account that could might hold them forever."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from keyvouch._system import forks
from keyvouch._system.files.errors import cannot_write
from keyvouch._system.files.folders import Folder
from keyvouch._system.files.path_resolution import make_folder, open_folder
from keyvouch._system.files.reading import Stamp, stamp
from keyvouch._system.text import shell_quoted
from keyvouch.errors import ConfigurationError, StoreUnavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold a lock between processes on this file, which is created (mode 0600, with its folder) if it is missing.

    Raises `StoreUnavailable` after `timeout` seconds, `ConfigurationError` if the file cannot be created or belongs to
    another account.
    """
    with LockFile(path) as lock:
        if not lock.acquire(timeout):
            raise StoreUnavailable(
                f"Timed out after {timeout:.0f} seconds waiting for another process to release the lock {path}.",
                hint="Look for a keyvouch process that hangs.",
            )
        yield


class LockFile:
    """A lock file, created like that of `locked`; a context manager, which releases the lock. For one thread.

    A forked child closes its copy at once: otherwise the child would still hold the lock if its parent is killed.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises `ConfigurationError` if it cannot be created or belongs to another account."""
        self._path = path
        make_folder(path.parent)
        try:
            with open_folder(path.parent) as folder:
                self._file = io.FileIO(_open(folder, path), "r+")
        except OSError as error:
            raise cannot_write(path, error) from error
        forks.watch(self)

    def after_fork(self) -> None:
        """Close the child's copy, without releasing the parent's lock."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._file.closed:  # as in a child that was forked inside the block
            _unlock(self._file.fileno())
            self._file.close()

    def acquire(self, timeout: float) -> bool:
        """Wait for the lock up to `timeout` seconds; return False if another process still holds it.

        Raises `ConfigurationError` if the file system has no locks.
        """
        deadline = time.monotonic() + timeout
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def _try(self) -> bool:
        try:
            return try_lock(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def stamp(self) -> Stamp:
        """Return a value that changes when a process calls `touch`."""
        return stamp(os.fstat(self._file.fileno()))

    def touch(self) -> None:
        """Change the file's stamp, for the processes that wait for the lock. Raises OSError."""
        # By its descriptor if possible: the path may have become a link to another file.
        os.utime(self._file.fileno() if os.utime in os.supports_fd else self._path)


def _open(folder: Folder, path: Path) -> int:
    """Open or create the lock file. Raises OSError, `ConfigurationError`."""
    while True:
        try:
            handle = folder.open(path.name, os.O_RDWR)
        except FileNotFoundError:
            try:
                handle = folder.open(path.name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:  # another process was faster
                continue
            _give_to_owner(handle, folder)
        try:
            _require_own(handle, folder, path)
        except BaseException:
            os.close(handle)
            raise
        return handle


def _give_to_owner(handle: int, folder: Folder) -> None:
    """Give a lock file that root has just created to the folder's owner, which could not open it otherwise."""
    if sys.platform != "win32" and os.geteuid() == 0 and folder.owner() != 0:
        os.fchown(handle, folder.owner(), -1)


def _require_own(handle: int, folder: Folder, path: Path) -> None:
    """Raise `ConfigurationError` for a file that another account put there, since it could hold the lock."""
    if sys.platform == "win32":
        return
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise ConfigurationError(
            f"{path} cannot be used as a lock: it is not a regular file, or it has several hard links.",
            hint=f"Run: rm {shell_quoted(path)}",
        )
    if status.st_uid not in (0, os.geteuid(), folder.owner()):
        raise ConfigurationError(
            f"{path} cannot be used as a lock: it belongs to another user (uid {status.st_uid}).",
            hint=f"Run: rm {shell_quoted(path)}",
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        os.fchmod(handle, 0o600)  # an account that can read it could hold the lock


def _unlock(handle: int) -> None:
    # Closing is not enough: a child that is just being forked also has the file open and would keep it locked.
    with contextlib.suppress(OSError):  # it was not locked, or cannot be
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_UN)


def try_lock(handle: int) -> bool:
    """Lock an open file for this process; False if another holds it. Raises OSError if the file system has no locks."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, 0):  # Wine sets no error number
                raise
            return False
    else:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
