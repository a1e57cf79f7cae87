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
from keyvouch_pkcs11 import locations

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


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
    monkeypatch.setattr(locations, "FOLDERS", (folder,))
    return path


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a file is passed to the dynamic linker."""
    monkeypatch.setattr("ctypes.CDLL", lambda path: pytest.fail(f"{path} was loaded"))


def refusal(uri: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError, match="is not trusted") as caught, keyvouch.open_store(uri) as store:
        store.keys()
    return caught.value


def located(uri: str) -> str:
    return locations.locate(parse(uri)).path


NAMED = ["module-path={module}", "module-name=mine", ""]
"""The ways to name a module."""


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("what", ["file", "folder", "folder above"])
def test_module_that_others_can_write(module: Path, settings: Path, tmp_path: Path, named: str, what: str) -> None:
    """Neither the module nor a folder above it may be writable by everyone, however the URI names the module."""
    place = {"file": module, "folder": module.parent, "folder above": tmp_path}[what]
    place.chmod(0o777)
    error = refusal(f"pkcs11:token=prod?{named.format(module=module)}")
    assert f"everyone can write to {place}" in error.message
    assert error.hint == f"Run: chmod o-w {place}"


@pytest.mark.parametrize("named", NAMED)
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can give files away")
def test_module_of_another_account(module: Path, settings: Path, named: str) -> None:
    """The module must not belong to another account."""
    os.chown(module, 60123, 60123)
    assert "belongs to another user" in refusal(f"pkcs11:token=prod?{named.format(module=module)}").message


@pytest.mark.parametrize("named", NAMED[1:])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_settings_that_others_can_write(settings: Path, named: str, what: str) -> None:
    """p11-kit's configuration must be trusted, because it determines which module is loaded."""
    place = settings if what == "file" else settings.parent
    place.chmod(0o777)
    assert f"everyone can write to {place}" in refusal(f"pkcs11:token=prod?{named}").message


def test_link_to_a_module(module: Path, tmp_path: Path) -> None:
    """A link in a folder that everyone can write to is refused, because it could be redirected."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "module.so").symlink_to(module)
    assert located(f"pkcs11:token=prod?module-path={shared / 'module.so'}") == str(module)
    shared.chmod(0o777)
    assert "everyone can write" in refusal(f"pkcs11:token=prod?module-path={shared / 'module.so'}").message


@pytest.mark.parametrize("named", NAMED)
def test_trusted_module(module: Path, settings: Path, named: str) -> None:
    """A module that belongs to this account or to root, in folders only they can write to, is accepted."""
    assert located(f"pkcs11:token=prod?{named.format(module=module)}") == str(module)


@pytest.mark.parametrize("whose", ["machine", "user"])
@pytest.mark.parametrize("what", ["settings", "module"])
def test_modules_behind_p11_kit(
    module: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, what: str
) -> None:
    """p11-kit's own module loads all configured modules, including the user's, so each must be trusted."""
    proxy = module.with_name("libp11-kit.so.0")
    proxy.write_bytes(b"")
    if whose == "user":
        monkeypatch.setattr(os, "geteuid", lambda: 60123)  # root has no user configuration
        monkeypatch.setattr("keyvouch.files.check_trusted", _at_the_first_account(files.check_trusted))
        folder = tmp_path / "home" / ".config" / "pkcs11" / "modules"
        folder.mkdir(parents=True)
        settings = settings.rename(folder / settings.name)
    uri = f"pkcs11:token=prod?module-path={proxy}"
    assert located(uri) == str(proxy)
    (settings if what == "settings" else module).chmod(0o777)
    assert "everyone can write" in refusal(uri).message


@pytest.mark.parametrize("what", ["folder", "missing module", "missing folder", "disabled module", "overridden module"])
def test_modules_that_may_come_behind_p11_kit(
    module: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Anything p11-kit would load if it were created between the check and the load must be trusted too."""
    proxy = tmp_path / "proxy" / "p11-kit-proxy.so"
    proxy.parent.mkdir()
    proxy.write_bytes(b"")
    uri = f"pkcs11:token=prod?module-path={proxy}"
    later = tmp_path / "later"
    later.mkdir()
    monkeypatch.setattr(locations, "FOLDERS", (settings.parent, later / "modules"))
    assert located(uri) == str(proxy)
    if what == "folder":
        settings.unlink()
        spoiled = settings.parent
    elif what == "missing module":
        module.unlink()
        spoiled = module.parent
    elif what == "missing folder":
        spoiled = later
    elif what == "disabled module":
        settings.write_text(f"module: {module}\nenable-in: python3\n")
        spoiled = module
    else:
        (later / "modules").mkdir()
        (later / "modules" / settings.name).write_text("x-init-reserved: none\n")
        spoiled = module
    spoiled.chmod(0o777)
    assert f"everyone can write to {spoiled}" in refusal(uri).message


def _at_the_first_account(check: object) -> object:
    """Make `check_trusted` still trust files of the account that runs the tests."""
    real = os.getuid()

    def checked(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: real)
            check(path)  # type: ignore[operator]

    return checked
