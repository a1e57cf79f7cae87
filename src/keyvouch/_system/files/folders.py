"""Folders that are held open, so that changes to their paths cannot redirect a write."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Self

from keyvouch._system.files.foreign_writers import ForeignWriter, foreign_writer
from keyvouch._system.forks import IMPORTS

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags that open a file, but not through a link, and without waiting for the other end of a FIFO."""


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

    def own_status(self) -> os.stat_result:
        """Return the status of the folder itself. Raises OSError."""
        return os.stat(self.path if self._handle is None else self._handle)

    def owner(self) -> int:
        """Return the uid of the folder's owner."""
        return self.own_status().st_uid

    def is_sticky(self) -> bool:
        """Return True if others can create files in it but not replace those of this account, as in /tmp."""
        return bool(self.own_status().st_mode & stat.S_ISVTX)

    def foreign_writer(self) -> ForeignWriter | None:
        """Return someone other than the owner, root and this account who can write to the folder. Raises OSError."""
        if self._handle is None:
            return None
        return foreign_writer(os.fstat(self._handle), f"/proc/self/fd/{self._handle}")

    def restrict_writing_to_owner(self) -> None:
        """Let only the owner write to the folder; this also masks an access control list. Raises OSError."""
        if self._handle is not None:
            mode = stat.S_IMODE(os.fstat(self._handle).st_mode)
            os.chmod(".", mode & ~(stat.S_IWGRP | stat.S_IWOTH), dir_fd=self._handle)

    def open(self, name: str, flags: int) -> int:
        """Open a file, but not through a link, and without waiting for the other end of a FIFO. Raises OSError.

        If these flags create the file, it has mode 0600.
        """
        return os.open(self._at(name), flags | NO_FOLLOW, 0o600, dir_fd=self._handle)

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

    def remove_any(self, name: str) -> None:
        """Delete a file, a link itself, or a folder with its contents. Raises OSErrors, FileNotFoundError."""
        if stat.S_ISDIR(self.status(name).st_mode):
            with IMPORTS:
                import shutil  # with five modules for archives

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
