"""Tokens kept for the next run: msal-extensions' persisted cache, one for each authority, tenant and client.

On macOS it is in the Keychain; elsewhere it is a file with mode 0600 in `$CACHE_DIRECTORY` or the user's cache
folder, on Windows encrypted with DPAPI for the account. The file is read without MSAL, which is slow to import: its
format is MSAL's unified cache schema, which MSAL uses in all languages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyvouch._system import files
from keyvouch.errors import ConfigurationError, KeyvouchError
from keyvouch.tokens import is_token

if TYPE_CHECKING:
    import msal

log = logging.getLogger("keyvouch")

_NOT_IN_LAST = 300
"""Number of seconds before its expiry from which a token is no longer taken from the cache, as in MSAL."""
_LOCK_TIMEOUT = 5.0
"""Number of seconds to wait for another process that is writing."""
_IN_MEMORY = 'token-cache = "memory" in the profile'
_ELSEWHERE = (
    f"Set CACHE_DIRECTORY, or {_IN_MEMORY}."
    if sys.platform == "win32"
    else f"Set CACHE_DIRECTORY (in systemd: CacheDirectory=keyvouch), or {_IN_MEMORY}."
)


def location(*identity: str) -> Path:
    """Return the cache path for an identity: authority, tenant and client id, as in the profile.

    Raises `ConfigurationError` if the account has no home folder and no other folder is set.
    """
    name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    return files.cache_folder() / "tokens" / f"{name}.json"


def persisted(find_place: Callable[[], Path], *, quiet: bool = False) -> msal.TokenCache:
    """Return the cache at this path as an MSAL cache.

    If it cannot be written (full or read-only disk, no home folder), or other accounts can write to its folder,
    tokens are kept in memory, and a warning is logged; `quiet` suppresses the warning on opening.
    """
    import msal

    try:
        place = find_place()
        files.make_folder(place.parent)
        files.require_own_folder(place.parent)
        return _open(place)
    except (KeyvouchError, OSError) as error:
        if not quiet:
            _warn(error)
        return msal.TokenCache()


def _open(place: Path) -> msal.TokenCache:
    # Also raises OSError if there is no temporary folder: portalocker asks for one when it is imported.
    from msal_extensions import PersistedTokenCache

    class LockedCache(PersistedTokenCache):  # type: ignore[misc]
        """A cache locked with `flock`, which ends with the process.

        Without the portalocker package, msal-extensions uses a lock file that must be removed; if a process is killed
        and leaves one behind, it blocks all later processes.
        """

        warned = False

        def modify(self, *args: Any, **kwargs: Any) -> None:
            with self._lock, contextlib.ExitStack() as locked:  # the thread lock first, as in `add`
                problem: Exception | None = None
                try:
                    locked.enter_context(files.locked(place.with_suffix(".lock"), timeout=_LOCK_TIMEOUT))
                    self._reload_if_necessary()
                except (KeyvouchError, OSError) as error:
                    problem = error
                super(PersistedTokenCache, self).modify(*args, **kwargs)
                self._warn_once(problem or self._save())

        def _save(self) -> Exception | None:
            try:
                self._persistence.save(self.serialize())
            except (KeyvouchError, OSError) as error:
                return error
            self._last_sync = time.time()
            return None

        def _warn_once(self, problem: Exception | None) -> None:
            if problem and not self.warned:
                _warn(problem)
            self.warned = problem is not None

        def _reload_if_necessary(self) -> None:
            with contextlib.suppress(OSError):  # treat an unreadable cache as empty
                super()._reload_if_necessary()

    return LockedCache(_persistence(place))


def _warn(problem: Exception) -> None:
    reason = problem.message if isinstance(problem, KeyvouchError) else f"{problem}."
    log.warning("The token was not cached: %s %s", reason, _ELSEWHERE)


def _persistence(place: Path) -> Any:
    import msal_extensions

    if sys.platform == "darwin":
        return msal_extensions.KeychainPersistence(str(place), "keyvouch", place.stem)

    class PrivateFile(msal_extensions.FilePersistence):  # type: ignore[misc]
        """A file that is replaced as a whole, so that other processes never read a partial one."""

        def save(self, content: str) -> None:
            try:
                files.write_own(place, _protected(content))
            except OSError as error:
                raise ConfigurationError(
                    f"The token cache {place} cannot be written: {error.strerror}.", hint=_ELSEWHERE
                ) from error

        def load(self) -> str:
            try:
                content = _read(place)
            except FileNotFoundError:
                raise msal_extensions.persistence.PersistenceNotFound(location=str(place)) from None
            except (ConfigurationError, OSError, UnicodeDecodeError):
                return ""
            cache = _parse(content)
            return content if cache and _is_sound(cache) else ""  # damaged: tokens can be acquired again

    return PrivateFile(str(place))


def _protected(content: str) -> bytes:
    """Return the bytes to write to the file. Raises `ConfigurationError` if Windows fails to encrypt."""
    if sys.platform != "win32":
        return content.encode()
    from msal_extensions.windows import WindowsDataProtectionAgent

    try:
        protected: bytes = WindowsDataProtectionAgent().protect(content)
    except OSError as error:  # DPAPI's keys are in the user profile
        raise ConfigurationError(
            f"Windows does not encrypt the token cache for this account (error {error.winerror}).",
            hint=f"Let the account's profile be loaded, or set {_IN_MEMORY}.",
        ) from error
    return protected


def _read(place: Path) -> str:
    """Return the content of a cache file. Raises OSError, UnicodeDecodeError.

    Raises `ConfigurationError` if another account could have written or read the file.
    """
    octets = files.read_own(place)
    if sys.platform != "win32":
        return octets.decode()
    from msal_extensions.windows import WindowsDataProtectionAgent

    content: str = WindowsDataProtectionAgent().unprotect(octets)
    return content


def find_token(place: Path, client_id: str, scopes: Sequence[str]) -> str | None:
    """Return an access token of the client itself that covers these scopes and is valid for at least five minutes."""
    now = time.time()
    for entry in _entries(place):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # damaged, or not ours
            usable = int(entry["expires_on"]) - now > _NOT_IN_LAST and int(entry.get("refresh_on") or now + 1) > now
            fits = entry.get("client_id") == client_id and set(scopes) <= set(entry.get("target", "").split())
            plain = not (entry.get("home_account_id") or entry.get("ext_cache_key") or entry.get("key_id"))
            if usable and fits and plain and is_token(entry["secret"]):
                return str(entry["secret"])
    return None


def _entries(place: Path) -> Iterable[Mapping[str, Any]]:
    if sys.platform == "darwin":
        import msal

        found: Iterable[Mapping[str, Any]] = persisted(lambda: place).search(
            msal.TokenCache.CredentialType.ACCESS_TOKEN
        )
        return found
    try:
        cache = _parse(_read(place))
    except (ConfigurationError, OSError, UnicodeDecodeError):
        return ()
    tokens = cache.get("AccessToken")
    return tuple(tokens.values()) if isinstance(tokens, dict) else ()


def _parse(content: str) -> dict[str, Any]:
    """Return the content of a cache file; empty if it is damaged."""
    try:
        cache = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _is_sound(cache: Mapping[str, Any]) -> bool:
    """Return True if MSAL can use the cache: tables of entries, and tokens with all fields that MSAL reads."""
    if not all(
        isinstance(table, dict) and all(isinstance(each, dict) for each in table.values()) for table in cache.values()
    ):
        return False
    return all(
        all(isinstance(entry.get(name), str) for name in ("secret", "target", "client_id", "environment"))
        and all(str(entry.get(name, "0")).isdecimal() for name in ("expires_on", "cached_at", "refresh_on"))
        and "expires_on" in entry
        for entry in cache.get("AccessToken", {}).values()
    )
