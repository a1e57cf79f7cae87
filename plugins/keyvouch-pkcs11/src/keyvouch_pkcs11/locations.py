"""Where a module is: at `module-path=`, or by the name and the settings that p11-kit knows (pkcs11.conf(5))."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from keyvouch.errors import ConfigurationError
from keyvouch.store import KeyUri

FOLDERS = (Path("/usr/share/p11-kit/modules"), Path("/etc/pkcs11/modules"))
"""Of the system's settings; what stands in a later one wins."""
_NOT_FOR_KEYS = ("p11-kit-trust",)
"""Modules that hold certificates of authorities, and no keys."""


@dataclass(frozen=True)
class Location:
    """A module's file, and what it is to be initialised with."""

    path: str
    reserved: bytes | None = None
    """The parameters that NSS takes (`x-init-reserved` of p11-kit)."""


def locate(uri: KeyUri) -> Location:
    """Return the module that the URI means. Raises `ConfigurationError`."""
    if path := uri.get("module-path"):
        if not os.path.isabs(path):  # noqa: PTH117 - a text
            raise ConfigurationError(
                f"module-path={path} is not the whole path of a file.", hint="Write module-path=/...", uri=uri
            )
        if not Path(path).is_file():
            raise ConfigurationError(
                f"There is no module at {path}.", hint="Correct module-path=, or install the module.", uri=uri
            )
        return Location(os.path.realpath(path))
    configured = _configured()
    if name := uri.get("module-name"):
        for each in (name, f"lib{name}"):
            if each in configured:
                return configured[each]
        raise ConfigurationError(
            f"There is no module {name}.",
            hint=f"Write module-path=/..., or one of: {', '.join(sorted(configured)) or 'none is configured'}.",
            uri=uri,
        )
    with_keys = {name: each for name, each in configured.items() if name not in _NOT_FOR_KEYS}
    if len(with_keys) == 1:
        return next(iter(with_keys.values()))
    raise ConfigurationError(
        "The URI does not say which PKCS#11 module.",
        hint="Add module-path=/..., or module-name= with one of: "
        f"{', '.join(sorted(with_keys)) or 'none, since p11-kit has none configured'}.",
        uri=uri,
    )


def _configured() -> dict[str, Location]:
    """Return the modules of p11-kit's settings, by the names of these."""
    files = {file.name: file for folder in FOLDERS for file in sorted(folder.glob("*.module"))}
    found: dict[str, Location] = {}
    for file in files.values():
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
    """Return the file of a setting, which may be without its folder."""
    if not module:
        return None
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (f"/usr/lib/{multiarch}/pkcs11", "/usr/lib64/pkcs11", "/usr/lib/pkcs11")
    candidates = [Path(module)] if module.startswith("/") else [Path(folder) / module for folder in folders]
    return next((Path(os.path.realpath(each)) for each in candidates if each.is_file()), None)
