"""Find a module's file: by `module-path=`, or by name through p11-kit's configuration (pkcs11.conf(5))."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import msgspec

from keyvouch import files
from keyvouch.errors import ConfigurationError
from keyvouch.store import KeyUri

CONFIGURATION_FOLDERS = (Path("/usr/share/p11-kit/modules"), Path("/etc/pkcs11/modules"))
"""Folders of the system's configuration; a file in a later folder takes precedence."""
_WITHOUT_KEYS = ("p11-kit-trust",)
"""Modules that contain only CA certificates and no keys."""
_P11_KIT_PREFIXES = ("p11-kit-proxy", "libp11-kit")
"""Name prefixes of the modules that load all others."""


class ModuleLocation(msgspec.Struct, frozen=True):
    """A module's file and its initialization parameters."""

    path: str
    reserved: bytes | None = None
    """The parameter string for NSS (p11-kit's `x-init-reserved`)."""


def find_module(uri: KeyUri) -> ModuleLocation:
    """Return the module that the URI selects. Raises `ConfigurationError`."""
    if path := uri.get("module-path"):
        return _require_trusted(_by_path(path, uri))
    configured = _configured_modules(CONFIGURATION_FOLDERS)
    if name := uri.get("module-name"):
        return _require_trusted(_by_name(name, configured, uri))
    with_keys = {name: each for name, each in configured.items() if name not in _WITHOUT_KEYS}
    if len(with_keys) == 1:
        return _require_trusted(next(iter(with_keys.values())))
    names = ", ".join(sorted(with_keys)) or "none, since p11-kit has none configured"
    raise ConfigurationError(
        "The URI does not specify a PKCS#11 module.",
        hint=f"Add module-path=/..., or module-name= with one of: {names}.",
        uri=uri,
    )


def _by_path(path: str, uri: KeyUri) -> ModuleLocation:
    if not os.path.isabs(path):  # noqa: PTH117 - a str
        raise ConfigurationError(
            f'module-path= requires an absolute path, got "{path}".', hint="Write module-path=/...", uri=uri
        )
    if not os.path.isfile(path):  # noqa: PTH113 - `Path.is_file` raises PermissionError
        raise ConfigurationError(
            f"PKCS#11 module not found: {path}.",
            hint="Correct module-path=, install the module, or let this account enter its folder.",
            uri=uri,
        )
    return ModuleLocation(path)


def _by_name(name: str, configured: dict[str, ModuleLocation], uri: KeyUri) -> ModuleLocation:
    for each in (name, f"lib{name}"):
        if each in configured:
            return configured[each]
    raise ConfigurationError(
        f"PKCS#11 module not found: {name}.",
        hint=f"Write module-path=/..., or one of: {', '.join(sorted(configured)) or 'none is configured'}.",
        uri=uri,
    )


def _require_trusted(location: ModuleLocation) -> ModuleLocation:
    """Return the location with links resolved. Raises `ConfigurationError` if other accounts could modify the module.

    The module is loaded by path, not through the descriptor of the checked file: no other account can replace files in
    trusted folders, and a module finds its own libraries relative to its path ($ORIGIN).
    p11-kit's own module loads all modules in p11-kit's configuration, including the user's, so those must be trusted
    too.
    """
    files.check_trusted(Path(location.path))
    resolved = os.path.realpath(location.path)
    if Path(resolved).name.startswith(_P11_KIT_PREFIXES):
        _check_p11_kit_modules()
    return ModuleLocation(resolved, location.reserved)


def _check_p11_kit_modules() -> None:
    """Raise `ConfigurationError` if other accounts could modify what p11-kit loads, or add to it later.

    p11-kit matches `enable-in` against the interpreter's name, and a configured path may be created later. So every
    module is checked; for a missing one, the folder that would contain it.
    """
    for folder in (*CONFIGURATION_FOLDERS, *_user_folders()):
        files.check_trusted(_nearest_existing(folder))
        for file in sorted(folder.glob("*.module")):
            files.check_trusted(file)
            module = _read_settings(file).get("module", "")
            if path := _module_file(module) or (Path(module) if module.startswith("/") else None):
                files.check_trusted(_nearest_existing(path))


def _nearest_existing(path: Path) -> Path:
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


def _configured_modules(folders: Sequence[Path]) -> dict[str, ModuleLocation]:
    """Return the modules in p11-kit's configuration, by the name of the configuration file.

    Raises `ConfigurationError` if other accounts could modify a configuration file.
    """
    settings_files = {file.name: file for folder in folders for file in sorted(folder.glob("*.module"))}
    found: dict[str, ModuleLocation] = {}
    for file in settings_files.values():
        files.check_trusted(file)
        settings = _read_settings(file)
        path = _module_file(settings.get("module", ""))
        if path is not None and _is_enabled(settings):
            reserved = settings.get("x-init-reserved")
            found[file.stem] = ModuleLocation(str(path), reserved.encode() if reserved else None)
    return found


def _is_enabled(settings: dict[str, str]) -> bool:
    program = Path(sys.argv[0]).name
    if "enable-in" in settings:
        return program in settings["enable-in"].replace(",", " ").split()
    return program not in settings.get("disable-in", "").replace(",", " ").split()


def _read_settings(file: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in file.read_text(errors="replace").splitlines())
    return {name.strip(): value.strip() for name, colon, value in lines if colon and not name.lstrip().startswith("#")}


def _module_file(module: str) -> Path | None:
    """Return the file of a `module` setting, an absolute path or a file name; None if it does not exist."""
    if not module:
        return None
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (f"/usr/lib/{multiarch}/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11")
    candidates = [Path(module)] if module.startswith("/") else [Path(folder) / module for folder in folders]
    return next((each for each in candidates if os.path.isfile(each)), None)  # noqa: PTH113 - as above
