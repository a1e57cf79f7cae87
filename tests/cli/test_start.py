"""What commands do not load, so that they start fast."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from keyvouch.testing.authority import Authority
from loaded_modules import loaded_by
from signing_in import make_key, run, write_profile

SLOW = {"importlib.metadata", "keyvouch.cli.mistakes", "msal", "platformdirs", "requests", "rich", "tempfile"}
"""Loaded only by commands that sign in, print tables, or fail."""
FINDS_STORES = {"importlib.metadata", "tempfile"}
"""Loaded to find a store by its entry point."""


def test_commands_look_for_no_garbage() -> None:
    """Looking for garbage, while a command works and when the interpreter ends, would take a tenth of its time."""
    assert "looks for garbage" not in loaded_by("--version")


def test_version_loads_no_uris() -> None:
    """Parsing URIs is loaded by commands that use keys."""
    assert {*SLOW, "keyvouch.config", "keyvouch.uri", "urllib.parse"}.isdisjoint(loaded_by("--version"))


def test_sign_loads_no_assertions(tmp_path: Path) -> None:
    """A command that only signs loads neither MSAL nor what makes assertions, nor what would have to precede a fork."""
    modules = loaded_by("sign", "--key", make_key(tmp_path, "app.pem").uri, message="message")
    assert "cryptography" in modules
    unused = {"difflib", "keyvouch.assertion", "keyvouch.private_key"}
    if sys.version_info >= (3, 13):  # before, importlib.metadata imports it anyway
        unused.add("email.message")
    assert {*SLOW, *unused}.isdisjoint(modules - FINDS_STORES)


def test_cached_token_loads_no_keys(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a cached token, neither MSAL nor anything that opens keys or connections is loaded."""
    key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    assert run("token").status == 0
    modules = loaded_by("token")
    assert "keyvouch.entra.cached_token" in modules
    unused = {"cryptography", "dataclasses", "difflib", "keyvouch.uri", "random", "shutil", "urllib.parse"}
    assert {*SLOW, *unused}.isdisjoint(modules)
