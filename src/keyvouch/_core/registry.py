"""Find the store class for a URI scheme, by entry point.

The entry points of the requested scheme are compared before anything is imported, so that a conflict, a plugin for
another contract, or a missing plugin is reported as such, with its distribution. A broken plugin does not affect
programs that do not use it.

The files of installed distributions are read here: importing `importlib.metadata` and parsing with it would take longer
than opening a key. They are described in the Core metadata and Entry points specifications of packaging.python.org.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch._system import files, search_path
from keyvouch._system.forks import IMPORTS
from keyvouch.errors import PluginBroken, PluginConflict, PluginMissing
from keyvouch.store import CONTRACT, KeyStore

if TYPE_CHECKING:
    from importlib.metadata import Distribution

GROUP = "keyvouch.stores"
_ENTRY_POINT = r"([\w.]+)\s*:\s*([\w.]+)\s*\[.*\]"
_INFOS = (".dist-info", ".egg-info")
_NOT_TRUSTED = "packages in the working directory are not trusted, since anyone may have put them there"

KNOWN = {
    "azure-keyvault": "keyvouch-azure-keyvault",
    "pkcs11": "keyvouch-pkcs11",
    "vault": "keyvouch-vault",
    "windows": "keyvouch-windows",
}
"""This project's distributions by scheme, for the hint to install one."""


@dataclass(frozen=True)
class Plugin:
    """A store as its distribution declares it; nothing of it has been imported yet."""

    scheme: str
    entry_point: str
    """The value: `module:class [contract]`."""
    distribution: str
    version: str

    @property
    def contract(self) -> str:
        """The text in brackets in the entry point: "contract1" if it was written for this contract."""
        brackets = re.search(r"\[(.*)\]", self.entry_point)
        return brackets[1].strip() if brackets else ""


def plugins() -> list[Plugin]:
    """Return every installed store, sorted by scheme; a scheme with two claimants is listed twice."""
    found: dict[tuple[str, str], Plugin] = {}
    for entry in search_path.trusted():
        for read in _distributions(entry):
            for plugin in _declared_by(read):
                # A second copy of a distribution later on the path is shadowed, and does not count.
                found.setdefault((plugin.scheme, plugin.distribution), plugin)
    return [found[key] for key in sorted(found)]


ReadText = Callable[[str], str]
"""Reads one of the metadata files of a distribution; raises OSError, UnicodeDecodeError."""


def _distributions(entry: str) -> list[ReadText]:
    """Return the distributions in an entry of `sys.path`; none if it is neither a folder nor an archive."""
    try:
        names = os.listdir(entry or os.curdir)  # noqa: PTH208 - many times as fast as `Path.iterdir`
    except NotADirectoryError:
        return _distributions_in_archive(entry)
    except (OSError, ValueError):
        return []
    return [functools.partial(_read_text, Path(entry, each)) for each in names if each.endswith(_INFOS)]


def _read_text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


@IMPORTS
def _distributions_in_archive(path: str) -> list[ReadText]:
    from importlib.metadata import distributions

    return [functools.partial(_archived_text, each) for each in distributions(path=[path])]


def _archived_text(distribution: Distribution, name: str) -> str:
    return distribution.read_text(name) or ""


def _declared_by(read: ReadText) -> list[Plugin]:
    """Return the stores of one distribution; none if its metadata is damaged."""
    try:
        text = read("entry_points.txt")
        if GROUP not in text:
            return []
        header = _header(read)
    except (OSError, ValueError):
        return []
    if not ("name" in header and "version" in header):
        return []
    return [Plugin(scheme, value, header["name"], header["version"]) for scheme, value in _entry_points(text)]


def _header(read: ReadText) -> dict[str, str]:
    """Return the fields of a distribution's metadata, by their names in lower case, without its description."""
    try:
        text = read("METADATA")
    except FileNotFoundError:
        text = read("PKG-INFO")  # an .egg-info
    fields: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.lower(), value.strip())
    return fields


def _entry_points(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each entry point in our group."""
    section = ""
    for line in map(str.strip, text.splitlines()):
        name, equals, value = line.partition("=")
        if line.startswith("["):
            section = line
        elif section == f"[{GROUP}]" and equals and not line.startswith(("#", ";")):
            yield name.strip(), value.strip()


@functools.cache
@IMPORTS
def store_class(scheme: str) -> type[KeyStore]:
    """Return the class of the scheme's store.

    Raises `PluginMissing`, `PluginConflict`, `PluginBroken`.
    """
    claimants = [plugin for plugin in plugins() if plugin.scheme == scheme]
    if not claimants:
        raise _missing(scheme)
    if len(claimants) > 1:
        names = " and ".join(plugin.distribution for plugin in claimants)
        other = next(plugin for plugin in reversed(claimants) if plugin.distribution != "keyvouch")
        raise PluginConflict(
            f"More than one distribution provides the scheme {scheme}: {names}.",
            hint=f"Uninstall the one that you do not want, for example: pip uninstall {other.distribution}",
        )
    return _load(claimants[0])


def _load(plugin: Plugin) -> type[KeyStore]:
    if plugin.contract != f"contract{CONTRACT}":
        raise PluginBroken(
            f"{plugin.distribution} {plugin.version} is incompatible: expected contract{CONTRACT} in its entry point,"
            f" got {plugin.contract or 'none'}.",
            hint=f"Update keyvouch and {plugin.distribution} together, to releases for the same contract.",
        )
    try:
        loaded = _import(plugin.entry_point)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # anything that the plugin's own code raises
        raise PluginBroken(
            f"Cannot load {plugin.distribution} {plugin.version}: {type(error).__name__}: {error}",
            hint=_hint_for(error, plugin),
        ) from error
    if not (
        isinstance(loaded, type)
        and issubclass(loaded, KeyStore)
        and isinstance(getattr(loaded, "attributes", None), tuple)
    ):
        raise PluginBroken(
            f"{plugin.entry_point} from {plugin.distribution} is not a KeyStore subclass with a tuple `attributes`.",
            hint="Name the store's class in the entry point, and declare `attributes` in the class, a tuple.",
        )
    return loaded


def _import(entry_point: str) -> object:
    """Import the object that an entry point names. Raises ValueError if it names none, and what the import raises."""
    named = re.fullmatch(_ENTRY_POINT, entry_point)
    if named is None:
        raise ValueError(f"invalid entry point {entry_point}")
    return functools.reduce(getattr, named[2].split("."), importlib.import_module(named[1]))


def _hint_for(error: BaseException, plugin: Plugin) -> str:
    hint = f"Reinstall {plugin.distribution} {plugin.version} and its dependencies from where you got it."
    if isinstance(error, ModuleNotFoundError) and (skipped := search_path.skipped()):
        hint += f"\nIf {error.name} is in the working directory ({skipped[0]}), run it elsewhere: {_NOT_TRUSTED}."
    return hint


def _missing(scheme: str) -> PluginMissing:
    import difflib
    from importlib.metadata import distributions

    package = KNOWN.get(scheme, f"keyvouch-{scheme}")
    schemes = sorted({plugin.scheme for plugin in plugins()})
    if any(distributions(name=package, path=search_path.trusted())):
        return PluginMissing(
            f"{package} is installed, but does not declare the entry point {scheme} in {GROUP}.",
            hint=f"Reinstall {package} from where you got it.",
        )
    if scheme in KNOWN:
        hint = f"In a checkout of keyvouch, run: pip install . ./plugins/{package}"
    elif nearest := difflib.get_close_matches(scheme, [*schemes, *KNOWN], n=1):
        hint = f'Did you mean "{nearest[0]}:"?'
    else:  # never suggest installing a name that nobody has vetted
        hint = "Install the package that provides it; `keyvouch stores` lists the installed ones."
    if skipped := _skipped(scheme):
        hint = f"Install it elsewhere, or change to another directory: {_NOT_TRUSTED}."
    message = f"No store is installed for {scheme}: (installed: {', '.join(schemes) or 'none'})."
    return PluginMissing(" ".join([message, *(f"Skipped {each}." for each in skipped)]), hint=hint)


def _skipped(scheme: str) -> list[Path]:
    """Return the metadata folders of distributions that declare the scheme in untrusted folders."""
    declares = re.compile(rb"^\s*" + re.escape(scheme).encode() + rb"\s*=", re.MULTILINE)
    found = []
    for folder in search_path.skipped():
        for entry_points in Path(folder).glob("*.*-info/entry_points.txt"):
            with contextlib.suppress(OSError):
                data = files.read(entry_points)  # reads regular files only
                if GROUP.encode() in data and declares.search(data):
                    found.append(entry_points.parent)
    return found
