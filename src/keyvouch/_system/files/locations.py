"""Paths of the configuration, the state and the caches."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from keyvouch._system.files.access_hints import is_home
from keyvouch._system.files.accounts import user_name
from keyvouch.errors import ConfigurationError

_WINDOWS = sys.platform == "win32"


def configuration_files() -> list[Path]:
    """Return the possible paths of the configuration, in the order they are tried; never in the working directory."""
    user = _user_folder("user_config_path")
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
    return _user_folder("user_state_path") or _without_home("STATE_DIRECTORY")


def cache_folder() -> Path:
    """Return the folder for data that may be lost: tokens. It may not exist yet."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.split(os.pathsep)[0])
    return _user_folder("user_cache_path") or _without_home("CACHE_DIRECTORY")


def _user_folder(kind: str) -> Path | None:
    """Return the user's folder of a kind, given as a platformdirs function name; None for an account without a home."""
    import platformdirs

    try:
        folder: Path = getattr(platformdirs, kind)("keyvouch", appauthor=False)
    except RuntimeError:
        return None
    # In this case, older versions of platformdirs return a folder named ~ in the working directory.
    return folder if folder.is_absolute() else None


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
