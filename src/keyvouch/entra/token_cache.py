"""Tokens kept for the next run: msal-extensions' persisted cache, one for each authority, tenant and client.

On Windows it is protected by DPAPI, on macOS it is in the Keychain; elsewhere it is a file of mode 0600 in
`$CACHE_DIRECTORY` or the user's cache folder.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msal import TokenCache
from msal_extensions import FilePersistence, FilePersistenceWithDataProtection, KeychainPersistence, PersistedTokenCache
from msal_extensions.persistence import BasePersistence

from keyvouch import files
from keyvouch.errors import ConfigurationError

_NOT_IN_LAST = 300
"""Seconds before its end in which a token is not taken from the cache any more, as MSAL has it."""


_ELSEWHERE = 'Set CACHE_DIRECTORY (in systemd: CacheDirectory=keyvouch), or token-cache = "memory" in the profile.'


class _PrivateFile(FilePersistence):  # type: ignore[misc]
    """A file that is replaced as a whole, so that no other process reads half of it."""

    def save(self, content: str) -> None:
        path = Path(self._location)
        try:
            files.write_private(path, content.encode(), replace=True)
        except OSError as error:
            raise ConfigurationError(
                f"The token cache {path} cannot be written: {error.strerror}.", hint=_ELSEWHERE
            ) from error

    def load(self) -> str:
        content = str(super().load())
        try:
            json.loads(content)
        except ValueError:
            return ""  # damaged: tokens can be got again
        return content


def persisted(*identity: str) -> PersistedTokenCache:
    """Return the cache for these: authority, tenant and client id, in the words of the profile."""
    name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    folder = files.cache_folder() / "tokens"
    try:
        files.make_folder(folder)
    except ConfigurationError as error:
        error.hint = _ELSEWHERE
        raise
    return PersistedTokenCache(_persistence(folder / f"{name}.json"))


def _persistence(path: Path) -> BasePersistence:
    if sys.platform == "win32":
        return FilePersistenceWithDataProtection(str(path))
    if sys.platform == "darwin":
        return KeychainPersistence(str(path), "keyvouch", path.stem)
    return _PrivateFile(str(path))


def find_token(cache: TokenCache, client_id: str, scopes: Sequence[str]) -> str | None:
    """Return an access token of the client itself for just these scopes that still lives for five minutes."""
    now = time.time()
    for entry in cache.search(
        TokenCache.CredentialType.ACCESS_TOKEN, target=list(scopes), query={"client_id": client_id}
    ):
        usable = int(entry["expires_on"]) - now > _NOT_IN_LAST and int(entry.get("refresh_on") or now + 1) > now
        if usable and not entry.get("home_account_id") and entry.get("token_type", "Bearer") == "Bearer":
            return str(entry["secret"])
    return None
