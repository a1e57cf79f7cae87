"""A profile's cached token, found without importing MSAL, which is slow to import."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from keyvouch._system import files
from keyvouch.config import CLOUDS, Profile
from keyvouch.entra import cache_file
from keyvouch.entra.authority import require_fields, required_scopes
from keyvouch.errors import ConfigurationError
from keyvouch.tokens import is_token

_RENEW_BEFORE = 300
"""Number of seconds before its expiry from which a token is no longer taken from the cache, as in MSAL."""


class CachedToken(NamedTuple):
    """An access token from the cache."""

    text: str
    expires_on: int
    """In seconds since 1970, UTC."""


def cached_token(profile: Profile, name: str) -> CachedToken | None:
    """Return a valid token from the profile's cache, without accessing keys or the authority."""
    require_fields(profile, name, "client_id", *required_scopes(profile))
    if profile.token_cache == "memory":  # noqa: S105 - not a secret
        return None
    try:
        path = cache_path(profile)
    except ConfigurationError:  # no home folder: no cache
        return None
    return find_token(path, str(profile.client_id), profile.scopes)


def cache_path(profile: Profile, kind: str = "") -> Path:
    """Return the path of the profile's token cache, or of the cache for a separate `kind` of tokens.

    Raises `ConfigurationError` if the account has no home folder and no other folder is set.
    """
    if not (profile.scopes or kind):
        kind = "default-scopes"  # MSAL finds any token if no scope is asked for
    identity = (profile.authority or CLOUDS[profile.cloud], profile.tenant or "", str(profile.client_id))
    name = hashlib.sha256("\0".join((*identity, *filter(None, [kind]))).encode()).hexdigest()[:32]
    return files.cache_folder() / "tokens" / f"{name}.json"


def find_token(path: Path, client_id: str, scopes: Sequence[str]) -> CachedToken | None:
    """Return an access token of the client itself that covers these scopes and is valid for at least five minutes."""
    now = time.time()
    for entry in _entries(path):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # damaged, or another program's
            fresh = int(entry["expires_on"]) - now > _RENEW_BEFORE and int(entry.get("refresh_on") or now + 1) > now
            fits = entry.get("client_id") == client_id and set(scopes) <= set(entry.get("target", "").split())
            plain = not (entry.get("home_account_id") or entry.get("ext_cache_key") or entry.get("key_id"))
            if fresh and fits and plain and is_token(entry["secret"]):
                return CachedToken(str(entry["secret"]), int(entry["expires_on"]))
    return None


def _entries(path: Path) -> Iterable[Mapping[str, Any]]:
    if sys.platform == "darwin":  # in the Keychain, which only MSAL's cache reads
        from keyvouch.entra import locked_token_cache

        found: Iterable[Mapping[str, Any]] = locked_token_cache.open_token_cache(lambda: path).search("AccessToken")
        return found
    try:
        cache = cache_file.parse(cache_file.read(path))
    except (ConfigurationError, OSError, UnicodeDecodeError):
        return ()
    tokens = cache.get("AccessToken")
    return tuple(tokens.values()) if isinstance(tokens, dict) else ()
