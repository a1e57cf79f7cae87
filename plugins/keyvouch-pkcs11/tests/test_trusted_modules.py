"""A module is code: one that other accounts could modify is not loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import keyvouch
from keyvouch import files
from keyvouch._core.opening import parse
from keyvouch.errors import ConfigurationError
from keyvouch_pkcs11 import module_lookup

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes exist only on POSIX systems")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Create a file that would be loaded as a module."""
    folder = tmp_path / "lib"
    folder.mkdir(mode=0o755)
    path = folder / "module.so"
    path.write_bytes(b"")
    path.chmod(0o755)
    return path


@pytest.fixture
def settings(tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create p11-kit's configuration file for the module, in the only configuration folder."""
    folder = tmp_path / "modules"
    folder.mkdir(mode=0o755)
    path = folder / "mine.module"
    path.write_text(f"module: {module}\n")
    path.chmod(0o644)
    monkeypatch.setattr(module_lookup, "CONFIGURATION_FOLDERS", (folder,))
    return path


@pytest.fixture(autouse=True)
def fail_on_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a file is passed to the dynamic linker."""
    monkeypatch.setattr("ctypes.CDLL", lambda path: pytest.fail(f"{path} was loaded"))


def trust_error(uri: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError, match="is not trusted") as caught, keyvouch.open_store(uri) as store:
        store.keys()
    return caught.value


def found_module(uri: str) -> str:
    return module_lookup.find_module(parse(uri)).path


NAMED = ["module-path={module}", "module-name=mine", ""]
"""The three ways of naming a module in a URI."""


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("what", ["file", "folder", "folder above"])
def test_module_that_others_can_write(module: Path, settings: Path, tmp_path: Path, named: str, what: str) -> None:
    """Neither the module nor a folder above it may be writable by everyone, however the URI names the module."""
    path = {"file": module, "folder": module.parent, "folder above": tmp_path}[what]
    path.chmod(0o777)
    error = trust_error(f"pkcs11:token=prod?{named.format(module=module)}")
    assert f"everyone can write to {path}" in error.message
    assert error.hint == f"Run: chmod o-w {path}"


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can give files away")
def test_module_of_another_account(module: Path, settings: Path, named: str) -> None:
    """The module must not belong to another account."""
    os.chown(module, 60123, 60123)
    assert "belongs to another user" in trust_error(f"pkcs11:token=prod?{named.format(module=module)}").message


@pytest.mark.parametrize("named", NAMED[1:])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_settings_that_others_can_write(settings: Path, named: str, what: str) -> None:
    """p11-kit's configuration must be trusted, because it determines which module is loaded."""
    path = settings if what == "file" else settings.parent
    path.chmod(0o777)
    assert f"everyone can write to {path}" in trust_error(f"pkcs11:token=prod?{named}").message


def test_link_to_a_module(module: Path, tmp_path: Path) -> None:
    """A link in a folder that everyone can write to is refused, because it could be redirected."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "module.so").symlink_to(module)
    assert found_module(f"pkcs11:token=prod?module-path={shared / 'module.so'}") == str(module)
    shared.chmod(0o777)
    assert "everyone can write" in trust_error(f"pkcs11:token=prod?module-path={shared / 'module.so'}").message


@pytest.mark.parametrize("named", NAMED)
def test_trusted_module(module: Path, settings: Path, named: str) -> None:
    """A module that belongs to this account or to root, in folders only they can write to, is accepted."""
    assert found_module(f"pkcs11:token=prod?{named.format(module=module)}") == str(module)


@pytest.mark.parametrize("owner", ["machine", "user"])
@pytest.mark.parametrize("what", ["settings", "module"])
def test_modules_that_p11_kit_loads(
    module: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, what: str
) -> None:
    """p11-kit's own module loads all configured modules, including the user's, so each must be trusted."""
    proxy = module.with_name("libp11-kit.so.0")
    proxy.write_bytes(b"")
    if owner == "user":
        monkeypatch.setattr(os, "geteuid", lambda: 60123)  # root has no user configuration
        monkeypatch.setattr("keyvouch.files.check_trusted", _as_current_account(files.check_trusted))
        folder = tmp_path / "home" / ".config" / "pkcs11" / "modules"
        folder.mkdir(parents=True)
        settings = settings.rename(folder / settings.name)
    uri = f"pkcs11:token=prod?module-path={proxy}"
    assert found_module(uri) == str(proxy)
    (settings if what == "settings" else module).chmod(0o777)
    assert "everyone can write" in trust_error(uri).message


@pytest.mark.parametrize("what", ["folder", "missing module", "missing folder", "disabled module", "overridden module"])
def test_modules_that_p11_kit_could_load_later(
    module: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Anything p11-kit would load if it were created between the check and the load must be trusted too."""
    proxy = tmp_path / "proxy" / "p11-kit-proxy.so"
    proxy.parent.mkdir()
    proxy.write_bytes(b"")
    uri = f"pkcs11:token=prod?module-path={proxy}"
    later = tmp_path / "later"
    later.mkdir()
    monkeypatch.setattr(module_lookup, "CONFIGURATION_FOLDERS", (settings.parent, later / "modules"))
    assert found_module(uri) == str(proxy)
    if what == "folder":
        settings.unlink()
        writable = settings.parent
    elif what == "missing module":
        module.unlink()
        writable = module.parent
    elif what == "missing folder":
        writable = later
    elif what == "disabled module":
        settings.write_text(f"module: {module}\nenable-in: python3\n")
        writable = module
    else:
        (later / "modules").mkdir()
        (later / "modules" / settings.name).write_text("x-init-reserved: none\n")
        writable = module
    writable.chmod(0o777)
    assert f"everyone can write to {writable}" in trust_error(uri).message


def _as_current_account(check: object) -> object:
    """Make `check_trusted` still trust files of the account that runs the tests."""
    real = os.getuid()

    def checked(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: real)
            check(path)  # type: ignore[operator]

    return checked
