"""The file that holds cached tokens: MSAL's unified cache schema as JSON, on Windows encrypted with DPAPI.

It is read without MSAL, which is slow to import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keyvouch._system import files
from keyvouch.errors import ConfigurationError

_IN_MEMORY = 'token-cache = "memory" in the profile'
ALTERNATIVES = (
    f"Set CACHE_DIRECTORY, or {_IN_MEMORY}."
    if sys.platform == "win32"
    else f"Set CACHE_DIRECTORY (in systemd: CacheDirectory=keyvouch), or {_IN_MEMORY}."
)
"""The hint if the file cannot be written."""


def write(path: Path, content: str) -> None:
    """Replace the file as a whole, so that other processes never read a partial one.

    Raises `ConfigurationError` if it cannot be written.
    """
    try:
        files.write_own(path, _encrypted(content))
    except OSError as error:
        raise ConfigurationError(
            f"The token cache {path} cannot be written: {error.strerror}.", hint=ALTERNATIVES
        ) from error


def read(path: Path) -> str:
    """Return the file's content. Raises OSError, UnicodeDecodeError.

    Raises `ConfigurationError` if another account could have written or read the file.
    """
    data = files.read_own(path)
    if sys.platform != "win32":
        return data.decode()
    from msal_extensions.windows import WindowsDataProtectionAgent

    content: str = WindowsDataProtectionAgent().unprotect(data)
    return content


def _encrypted(content: str) -> bytes:
    """Return the bytes to write to the file. Raises `ConfigurationError` if Windows fails to encrypt."""
    if sys.platform != "win32":
        return content.encode()
    from msal_extensions.windows import WindowsDataProtectionAgent

    try:
        encrypted: bytes = WindowsDataProtectionAgent().protect(content)
    except OSError as error:  # DPAPI's keys are in the user profile
        raise ConfigurationError(
            f"Windows failed to encrypt the token cache for this account (error {error.winerror}).",
            hint=f"Make sure that the account's user profile is loaded, or set {_IN_MEMORY}.",
        ) from error
    return encrypted


def parse(content: str) -> dict[str, Any]:
    """Return the cache that a file contains; empty if the file is damaged."""
    try:
        cache = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return cache if isinstance(cache, dict) else {}


def is_valid(cache: Mapping[str, Any]) -> bool:
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


class CacheFile:
    """A file as the storage of a token cache."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, content: str) -> None:
        """Replace the file. Raises `ConfigurationError` if it cannot be written."""
        write(self._path, content)

    def load(self) -> str:
        """Return the file's content; empty if MSAL could not use it: tokens can be acquired again."""
        try:
            content = read(self._path)
        except FileNotFoundError:
            raise
        except (ConfigurationError, OSError, UnicodeDecodeError):
            return ""
        cache = parse(content)
        return content if cache and is_valid(cache) else ""

    def time_last_modified(self) -> files.Stamp:
        """Return the file's stamp: its time may be the same after a write, or earlier if the clock was adjusted."""
        return files.stamp(self._path.stat())
