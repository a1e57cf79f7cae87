"""What `import keyvouch` provides, and what it costs."""

import ast
import dataclasses
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import keyvouch

HEAVY = ["msal", "stevedore", "importlib.metadata", "click", "cryptography", "msgspec", "platformdirs"]


def type_checking_imports() -> dict[str, str]:
    """The imports in the module's `if TYPE_CHECKING:` block: each name with its module."""
    tree = ast.parse(Path(keyvouch.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        str(alias.asname): str(line.module)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
        if alias.asname  # which makes it public
    }


def test_import_loads_nothing_heavy() -> None:
    """Importing keyvouch does not load anything that the program does not use."""
    program = f"import keyvouch, json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout) == []


def test_all_lists_the_lazy_names() -> None:
    """All lazy names are public and known to type checkers, and only the version is not lazy."""
    assert set(keyvouch.__all__) == {*type_checking_imports(), "__version__"}
    assert keyvouch.__all__ == sorted(keyvouch.__all__)


@pytest.mark.parametrize(("name", "module"), type_checking_imports().items())
def test_name_is_what_type_checkers_see(name: str, module: str) -> None:
    """Every name is imported from the module that type checkers find it in."""
    assert getattr(keyvouch, name) is getattr(importlib.import_module(module), name)
    assert name in dir(keyvouch)


def test_unknown_name_is_an_attribute_error() -> None:
    """Introspection that asks for missing names works as with any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        keyvouch.nothing  # noqa: B018
    assert not hasattr(keyvouch, "__wrapped__")


_NOT_THE_CORE = ("keyvouch.__main__", "keyvouch.cli", "keyvouch.testing", "keyvouch._system.windows.files")


def classes_with_a_repr() -> list[type]:
    """The classes of the core and its clients that define `__repr__`."""
    names = (module.name for module in pkgutil.walk_packages(keyvouch.__path__, "keyvouch."))
    modules = [importlib.import_module(name) for name in names if not name.startswith(_NOT_THE_CORE)]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    ours = [kind for kind in found if kind.__module__.startswith("keyvouch.") and "__repr__" in vars(kind)]
    return sorted(
        (kind for kind in ours if not dataclasses.is_dataclass(kind) and not issubclass(kind, (tuple, msgspec.Struct))),
        key=lambda kind: kind.__qualname__,
    )


@pytest.mark.parametrize("kind", classes_with_a_repr(), ids=lambda kind: kind.__name__)
def test_half_made_object_has_a_repr(kind: type) -> None:
    """An error reporter may print an object whose construction failed."""
    assert repr(object.__new__(kind))
