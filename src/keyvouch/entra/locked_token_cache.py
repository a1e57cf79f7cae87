"""MSAL's token cache, kept for the next run: one for each authority, tenant and client.

On macOS it is in the Keychain; elsewhere it is a file with mode 0600 in `$CACHE_DIRECTORY` or the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msal

from keyvouch._system import files
from keyvouch.entra import cache_file
from keyvouch.entra.msal_internals import token_cache_lock
from keyvouch.entra.request_lock import request_lock
from keyvouch.errors import KeyvouchError

log = logging.getLogger("keyvouch")

_LOCK_TIMEOUT = 5.0
"""Number of seconds to wait for another process that is writing."""


def open_token_cache(find_path: Callable[[], Path], *, quiet: bool = False) -> msal.TokenCache:
    """Return the token cache at this path.

    If it cannot be written (full or read-only disk, no home folder), or other accounts can write to its folder,
    tokens are kept in memory, and a warning is logged with the first one; `quiet` suppresses it.
    """
    try:
        path = find_path()
        files.make_folder(path.parent)
        files.require_own_folder(path.parent)
        return LockedTokenCache(_storage(path), path.with_suffix(".lock"))
    except (KeyvouchError, OSError) as error:
        return msal.TokenCache() if quiet else UnsavedTokenCache(error)


class UnsavedTokenCache(msal.TokenCache):  # type: ignore[misc]
    """A token cache in memory, which logs at the first token why it is not saved."""

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self._problem: Exception | None = problem

    def modify(self, *args: Any, **kwargs: Any) -> None:
        """Change an entry as the inherited method does."""
        super().modify(*args, **kwargs)
        problem, self._problem = self._problem, None
        if problem:
            _warn(problem)


class CacheStorage(Protocol):
    """Where the serialized cache is kept. If it cannot be read, `load` and `time_last_modified` raise OSError.

    The methods are those of the persistence classes of msal-extensions.
    """

    def save(self, content: str) -> None: ...

    def load(self) -> str: ...

    def time_last_modified(self) -> object: ...


class LockedTokenCache(msal.SerializableTokenCache):  # type: ignore[misc]
    """A token cache that processes share: read again if another has changed it, and locked while it is changed.

    The lock is `flock`, which ends with the process. The lock file of msal-extensions' `PersistedTokenCache` must be
    removed: if a process is killed and leaves one behind, it blocks all later processes.
    """

    def __init__(self, storage: CacheStorage, lock_path: Path) -> None:
        super().__init__()
        self._storage, self._lock_path = storage, lock_path
        self._loaded: object = None
        self._warned = False

    def search(self, *args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        """Find entries as the inherited method does, after other processes' changes were read."""
        self._load_if_changed()
        found: Iterator[dict[str, Any]] = super().search(*args, **kwargs)
        return found

    def modify(self, *args: Any, **kwargs: Any) -> None:
        """Change an entry and save the cache. If it cannot be saved, log a warning: the change is kept in memory."""
        # The thread lock first: MSAL already holds it when it adds a token.
        with token_cache_lock(self), contextlib.ExitStack() as file_lock:
            problem: Exception | None = None
            try:
                file_lock.enter_context(files.locked(self._lock_path, timeout=_LOCK_TIMEOUT))
                self._load_if_changed()
            except (KeyvouchError, OSError) as error:
                problem = error
            super().modify(*args, **kwargs)
            self._warn_once(problem or self._save())

    def request_lock(self, request: str, timeout: float) -> AbstractContextManager[bool]:
        """Return the lock that processes hold while they make this token request; see `request_lock`.

        There are at most 256 lock files for each cache; two requests that share one only wait for each other.
        """
        number = hashlib.sha256(request.encode()).hexdigest()[:2]
        return request_lock(self._lock_path.with_suffix(f".{number}.lock"), timeout)

    def _load_if_changed(self) -> None:
        with contextlib.suppress(OSError):  # treat an unreadable or missing cache as empty
            if (modified := self._storage.time_last_modified()) != self._loaded:
                self.deserialize(self._storage.load())
                self._loaded = modified

    def _save(self) -> Exception | None:
        try:
            self._storage.save(self.serialize())
            self._loaded = self._storage.time_last_modified()
        except (KeyvouchError, OSError) as error:
            return error
        return None

    def _warn_once(self, problem: Exception | None) -> None:
        if problem and not self._warned:
            _warn(problem)
        self._warned = problem is not None


def _warn(problem: Exception) -> None:
    reason = problem.message if isinstance(problem, KeyvouchError) else f"{problem}."
    hints = (files.foreign_home(), cache_file.ALTERNATIVES)
    log.warning("The token was not cached: %s %s", reason, " ".join(filter(None, hints)))


def _storage(path: Path) -> CacheStorage:
    if sys.platform != "darwin":
        return cache_file.CacheFile(path)
    import msal_extensions

    keychain: CacheStorage = msal_extensions.KeychainPersistence(str(path), "keyvouch", path.stem)
    return keychain
