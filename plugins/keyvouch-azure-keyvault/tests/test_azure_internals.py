"""The private names of the Azure SDK on which the plugin depends."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from keyvouch_azure_keyvault import azure_internals

PLUGIN = Path(__file__).parents[1]
SOURCES = [path for path in PLUGIN.glob("src/**/*.py") if path.name != "azure_internals.py"]
VAULT = "https://contoso.vault.azure.net"


@pytest.mark.parametrize("cache", azure_internals.CHALLENGE_CACHES, ids=lambda cache: cache.__name__)
def test_names_exist(cache: ModuleType) -> None:
    """Each challenge cache has the lock that is replaced, and the functions that are called."""
    assert vars(cache)["_lock"].acquire(blocking=False)
    vars(cache)["_lock"].release()
    assert callable(cache.remove_challenge_for_url)
    assert callable(cache.clear)  # the root's conftest.py


def test_challenge_is_forgotten() -> None:
    """A cached challenge is removed, and a missing one is not an error."""
    for cache in azure_internals.CHALLENGE_CACHES:
        vars(cache)["_cache"]["contoso.vault.azure.net"] = object()
    for _ in range(2):
        azure_internals.forget_challenge(VAULT)
    assert [cache.get_challenge_for_url(VAULT) for cache in azure_internals.CHALLENGE_CACHES] == [None, None]


def test_locks_are_replaced_only_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process than the one that created them, the locks are replaced once, even if they are held."""
    locks = [vars(cache)["_lock"] for cache in azure_internals.CHALLENGE_CACHES]
    azure_internals.replace_inherited_locks()
    assert [vars(cache)["_lock"] for cache in azure_internals.CHALLENGE_CACHES] == locks
    for cache, lock in zip(azure_internals.CHALLENGE_CACHES, locks, strict=True):
        monkeypatch.setattr(cache, "_lock", lock)  # restored afterwards
    monkeypatch.setattr(azure_internals._Locks, "process", -1)
    azure_internals.replace_inherited_locks()
    replaced = [vars(cache)["_lock"] for cache in azure_internals.CHALLENGE_CACHES]
    assert not [lock for lock in replaced if lock in locks]
    assert azure_internals._Locks.process == os.getpid()
    azure_internals.replace_inherited_locks()
    assert [vars(cache)["_lock"] for cache in azure_internals.CHALLENGE_CACHES] == replaced


def imported_names(path: Path) -> Iterator[str]:
    """Return the dotted names that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{each.name}" for each in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PLUGIN).as_posix())
def test_other_modules_use_only_public_names(path: Path) -> None:
    """No other module imports a private name from a library, or `requests`, which is not a dependency."""
    imports = [each for each in imported_names(path) if not each.startswith(("keyvouch", "__future__"))]
    assert not [each for each in imports if re.search(r"(^|\.)_", each) or each.startswith("requests")]


def _dependencies() -> list[str]:
    hooks = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    found: list[str] = hooks["custom"]["dependencies"]
    return found


def test_packages_have_upper_bounds() -> None:
    """Each package with private names that are used has an upper bound: a minor release may remove them."""
    dependencies = _dependencies()
    for cache in azure_internals.CHALLENGE_CACHES:
        package = "-".join(cache.__name__.split(".")[:3])
        (dependency,) = (each for each in dependencies if each.startswith(package))
        assert re.search(r",<\d+\.\d+$", dependency)
