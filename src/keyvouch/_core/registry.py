"""Find the store class for a URI scheme, by entry point.

The entry points of the requested scheme are compared before anything is imported, so that a conflict, a plugin for
another contract, or a missing plugin is reported as such, with its distribution. Then stevedore loads it. A broken
plugin does not affect programs that do not use it.
"""

from __future__ import annotations

import contextlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keyvouch._system import files, search_path
from keyvouch._system.forks import IMPORTS
from keyvouch.errors import PluginBroken, PluginConflict, PluginMissing
from keyvouch.store import CONTRACT, KeyStore

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

GROUP = "keyvouch.stores"
_NAME_OR_VERSION = re.compile(r"^(Name|Version):[ \t]*(.*\S)", re.MULTILINE)
"""A field in the metadata of a distribution."""
_NOT_TRUSTED = "packages in the working directory are not trusted, since anyone may have put them there"

KNOWN = {
    "azure-keyvault": "keyvouch-azure-keyvault",
    "pkcs11": "keyvouch-pkcs11",
    "vault": "keyvouch-vault",
    "windows": "keyvouch-windows",
}
"""This project's distributions by scheme, for the hint to install one."""


class Plugin(msgspec.Struct, frozen=True):
    """A store as its distribution declares it; nothing of it has been imported yet."""

    scheme: str
    entry_point: EntryPoint
    distribution: str
    version: str

    @property
    def contract(self) -> str:
        """The text in brackets in the entry point: "contract1" if it was written for this contract."""
        brackets = re.search(r"\[(.*)\]", self.entry_point.value)  # `extras` fails if the entry point is invalid
        return brackets[1].strip() if brackets else ""


@IMPORTS
def plugins() -> list[Plugin]:
    """Return every installed store, sorted by scheme; a scheme with two claimants is listed twice."""
    from importlib.metadata import distributions

    found: dict[tuple[str, str], Plugin] = {}
    for distribution in distributions(path=search_path.trusted()):
        for plugin in _declared_by(distribution):
            # A second copy of a distribution later on the path is shadowed, and does not count.
            found.setdefault((plugin.scheme, plugin.distribution), plugin)
    return [found[key] for key in sorted(found)]


def _declared_by(distribution: Distribution) -> list[Plugin]:
    """Return the stores of one distribution; none if its metadata is damaged."""
    try:
        if GROUP not in (distribution.read_text("entry_points.txt") or ""):
            return []  # parsing the metadata of everything installed would take longer than all the rest
        # Not `distribution.metadata`, which imports the package email.
        metadata = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        fields = dict(_NAME_OR_VERSION.findall(metadata.partition("\n\n")[0]))
        entry_points = distribution.entry_points.select(group=GROUP)
        return [Plugin(each.name, each, fields["Name"], fields["Version"]) for each in entry_points]
    except Exception:  # noqa: BLE001 - importlib.metadata does not document its exceptions
        return []


@cache
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
    from stevedore import DriverManager

    class _CheckedEntryPoint(DriverManager[KeyStore]):
        """Loads the entry point that was compared above, and searches for no other."""

        def list_entry_points(self) -> list[EntryPoint]:
            return [plugin.entry_point]

    try:
        loaded = _CheckedEntryPoint(GROUP, plugin.scheme).driver
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
            f"{plugin.entry_point.value} from {plugin.distribution} is not a KeyStore subclass with a tuple"
            " `attributes`.",
            hint="Name the store's class in the entry point, and declare `attributes` in the class, a tuple.",
        )
    return loaded


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
