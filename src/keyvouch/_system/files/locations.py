"""Paths of the configuration, the state and the caches."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from keyvouch._system.files.access_hints import is_home
from keyvouch._system.files.accounts import user_name
from keyvouch.errors import ConfigurationError

_XDG_DEFAULTS = {"config": ".config", "state": ".local/state", "cache": ".cache"}
"""The folders in the home directory, from the XDG Base Directory Specification."""
_WINDOWS = sys.platform == "win32"


def configuration_files() -> list[Path]:
    """Return the possible paths of the configuration, in the order they are tried; never in the working directory."""
    user = _user_folder("config")
    if _WINDOWS:
        machine = Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "keyvouch", "config.toml")
    else:
        machine = Path("/etc/keyvouch/config.toml")
    return [user / "config.toml", machine] if user else [machine]


def state_folder() -> Path:
    """Return the folder for data that must outlive the process: refused secrets, journals. It may not exist yet."""
    if given := os.environ.get("STATE_DIRECTORY"):  # set by systemd; the first of several
        return Path(given.split(os.pathsep)[0])
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/keyvouch")
    return _user_folder("state") or _without_home("STATE_DIRECTORY")


def cache_folder() -> Path:
    """Return the folder for data that may be lost: tokens. It may not exist yet."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.split(os.pathsep)[0])
    return _user_folder("cache") or _without_home("CACHE_DIRECTORY")


def _user_folder(kind: str) -> Path | None:
    """Return the user's folder of a kind; None for an account without a home."""
    if sys.platform == "linux":  # where platformdirs would take as long to import as a tenth of a command
        given = os.environ.get(f"XDG_{kind.upper()}_HOME", "")
        folder = Path(given if os.path.isabs(given) else os.path.join(_home(), _XDG_DEFAULTS[kind]), "keyvouch")
    else:
        import platformdirs

        try:
            folder = getattr(platformdirs, f"user_{kind}_path")("keyvouch", appauthor=False)
        except RuntimeError:
            return None
    # Without a home it is in the working directory; older versions of platformdirs name it ~.
    return folder if folder.is_absolute() else None


def _home() -> str:
    """Return the home directory on Linux; empty if there is none. A relative path in HOME counts as unset."""
    import pwd

    if os.path.isabs(home := os.environ.get("HOME", "")):
        return home
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def foreign_home() -> str:
    """Return a sentence if HOME is the home directory of another account, as after `su` or `sudo` without -H."""
    home = os.environ.get("HOME", "")
    if sys.platform == "win32" or not home:
        return ""
    try:
        owner = os.stat(home).st_uid
    except OSError:
        return ""
    if owner == os.geteuid() or os.geteuid() == 0 or not is_home(Path(home)):
        return ""
    return f"HOME is {home}, which belongs to {user_name(owner)}: set it to this account's home directory."


def _without_home(variable: str) -> NoReturn:
    home = "load its profile (%LOCALAPPDATA%)" if _WINDOWS else "HOME"
    raise ConfigurationError("This account has no home directory.", hint=f"Set {variable} to a folder, or {home}.")
