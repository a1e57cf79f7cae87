"""Locate a module: by `module-path=`, or by name through p11-kit's configuration (pkcs11.conf(5))."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keyvouch import files
from keyvouch.errors import ConfigurationError
from keyvouch.store import KeyUri

FOLDERS = (Path("/usr/share/p11-kit/modules"), Path("/etc/pkcs11/modules"))
"""Folders of the system's configuration; a file in a later folder takes precedence."""
_NOT_FOR_KEYS = ("p11-kit-trust",)
"""Modules that contain only CA certificates and no keys."""
_P11_KIT = ("p11-kit-proxy", "libp11-kit")
"""Name prefixes of the modules that load all others."""


@dataclass(frozen=True)
class Location:
    """A module's file and its initialisation parameters."""

    path: str
    reserved: bytes | None = None
    """The parameter string for NSS (p11-kit's `x-init-reserved`)."""


def locate(uri: KeyUri) -> Location:
    """Return the module that the URI selects. Raises `ConfigurationError`."""
    if path := uri.get("module-path"):
        if not os.path.isabs(path):  # noqa: PTH117 - a str
            raise ConfigurationError(
                f"module-path={path} is not the whole path of a file.", hint="Write module-path=/...", uri=uri
            )
        if not Path(path).is_file():
            raise ConfigurationError(
                f"There is no module at {path}.", hint="Correct module-path=, or install the module.", uri=uri
            )
        return _trusted(Location(path))
    configured = _configured(FOLDERS)
    if name := uri.get("module-name"):
        for each in (name, f"lib{name}"):
            if each in configured:
                return _trusted(configured[each])
        raise ConfigurationError(
            f"There is no module {name}.",
            hint=f"Write module-path=/..., or one of: {', '.join(sorted(configured)) or 'none is configured'}.",
            uri=uri,
        )
    with_keys = {name: each for name, each in configured.items() if name not in _NOT_FOR_KEYS}
    if len(with_keys) == 1:
        return _trusted(next(iter(with_keys.values())))
    raise ConfigurationError(
        "The URI does not say which PKCS#11 module.",
        hint="Add module-path=/..., or module-name= with one of: "
        f"{', '.join(sorted(with_keys)) or 'none, since p11-kit has none configured'}.",
        uri=uri,
    )


def _trusted(location: Location) -> Location:
    """Return the location with links resolved. Raises `ConfigurationError` if other accounts could modify the module.

    The module is loaded by path, not through the descriptor of the checked file: no other account can replace files in
    trusted folders, and a module finds its own libraries relative to its path ($ORIGIN).
    p11-kit's own module loads all modules in p11-kit's configuration, including the user's, so those must be trusted
    too.
    """
    files.check_trusted(Path(location.path))
    resolved = os.path.realpath(location.path)
    if Path(resolved).name.startswith(_P11_KIT):
        _check_behind_p11_kit()
    return Location(resolved, location.reserved)


def _check_behind_p11_kit() -> None:
    """Raise `ConfigurationError` if other accounts could modify what p11-kit loads, or add to it later.

    p11-kit matches `enable-in` against the interpreter's name, and a configured path may be created later. So every
    module is checked; for a missing one, the folder that would contain it.
    """
    for folder in (*FOLDERS, *_user_folders()):
        files.check_trusted(_existing(folder))
        for file in sorted(folder.glob("*.module")):
            files.check_trusted(file)
            module = _settings(file).get("module", "")
            if place := _path(module) or (Path(module) if module.startswith("/") else None):
                files.check_trusted(_existing(place))


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.parents) if os.path.lexists(each))


def _user_folders() -> tuple[Path, ...]:
    """Return the folder of the user's configuration; empty for root."""
    if sys.platform == "win32" or os.geteuid() == 0:
        return ()
    try:
        return (Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "pkcs11", "modules"),)
    except RuntimeError:  # the account has no home
        return ()


def _configured(folders: Sequence[Path]) -> dict[str, Location]:
    """Return the modules in p11-kit's configuration, by the name of the configuration file.

    Raises `ConfigurationError` if other accounts could modify a configuration file.
    """
    settings_files = {file.name: file for folder in folders for file in sorted(folder.glob("*.module"))}
    found: dict[str, Location] = {}
    for file in settings_files.values():
        files.check_trusted(file)
        settings = _settings(file)
        path = _path(settings.get("module", ""))
        if path is not None and _is_enabled(settings):
            reserved = settings.get("x-init-reserved")
            found[file.stem] = Location(str(path), reserved.encode() if reserved else None)
    return found


def _is_enabled(settings: dict[str, str]) -> bool:
    program = Path(sys.argv[0]).name
    if "enable-in" in settings:
        return program in settings["enable-in"].replace(",", " ").split()
    return program not in settings.get("disable-in", "").replace(",", " ").split()


def _settings(file: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in file.read_text(errors="replace").splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon and not name.lstrip().startswith("#")}


def _path(module: str) -> Path | None:
    """Return the file of a `module` setting, an absolute path or a file name; None if it does not exist."""
    if not module:
        return None
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (f"/usr/lib/{multiarch}/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11")
    candidates = [Path(module)] if module.startswith("/") else [Path(folder) / module for folder in folders]
    return next((each for each in candidates if each.is_file()), None)
