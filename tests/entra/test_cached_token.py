"""A token is used from a cache file only if everything known about it matches; the file may contain anything."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import malformed
from cached_entries import CLIENT, SCOPES, entry
from keyvouch.config import Profile
from keyvouch.entra import cached_token, locked_token_cache
from keyvouch.entra.cached_token import CachedToken, cache_path, find_token
from keyvouch.entra.locked_token_cache import open_token_cache


def find(path: Path, content: object) -> str | None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.touch(mode=0o600)
    path.write_bytes(data)
    return text_of(find_token(path, CLIENT, SCOPES))


def text_of(found: CachedToken | None) -> str | None:
    return found.text if found else None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.json"


def test_token_that_fits(path: Path) -> None:
    """A valid token of the client for the scope."""
    assert find(path, {"AccessToken": {"a": entry()}}) == "token"


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "another"},
        {"client_id": None},
        {"target": "other"},
        {"target": ""},
        {"expires_on": "0"},
        {"expires_on": str(2**31), "refresh_on": "1"},
        {"home_account_id": "user"},
        {"ext_cache_key": "x"},
        {"key_id": "x"},
        {"secret": "to\nken"},
        {"secret": 5},
        {"secret": ""},
        {"expires_on": "soon"},
        {"expires_on": []},
        {"expires_on": None},
        {"refresh_on": "soon"},
        {"target": 5},
        {"target": ["scope"]},
    ],
)
def test_tokens_that_do_not_fit(path: Path, changes: dict[str, object]) -> None:
    """Tokens for another client, scope or user, expired ones and invalid ones are skipped; the next one is found."""
    assert find(path, {"AccessToken": {"a": entry(**changes)}}) is None
    assert find(path, {"AccessToken": {"a": entry(**changes), "b": entry(secret="next")}}) == "next"


@pytest.mark.parametrize("name", ["client_id", "target", "expires_on", "secret"])
def test_tokens_with_a_missing_field(path: Path, name: str) -> None:
    """A token without one of its members is skipped."""
    bare = entry()
    del bare[name]
    assert find(path, {"AccessToken": {"a": bare, "b": entry(secret="next")}}) == "next"


@pytest.mark.parametrize("each", [5, None, "x", [], [5]])
def test_entries_that_are_not_objects(path: Path, each: object) -> None:
    """Other values instead of a token or the table of tokens are skipped."""
    assert find(path, {"AccessToken": {"a": each, "b": entry()}}) == "token"
    assert find(path, {"AccessToken": each}) is None
    assert find(path, each) is None


@pytest.mark.parametrize("content", [*malformed.WHOLE, b"\xff\xfe", b'{"AccessToken": "\xff"}'])
def test_damaged_file(path: Path, content: bytes) -> None:
    """Content that is not UTF-8 or JSON, or too deep, has no token; MSAL starts with an empty, writable cache."""
    assert find(path, content) is None
    cache = open_token_cache(lambda: path)
    cache.add(
        {
            "client_id": CLIENT,
            "scope": SCOPES,
            "token_endpoint": "https://login.example/t",
            "response": {"access_token": "fresh", "expires_in": 3600, "token_type": "Bearer"},
        }
    )
    assert text_of(find_token(path, CLIENT, SCOPES)) == "fresh"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=malformed.fuzzed(("AccessToken", "secret", "target", "client_id", "expires_on", "refresh_on", "a")))
def test_arbitrary_content(path: Path, content: bytes) -> None:
    """Any JSON gives a token, or none."""
    find(path, content)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"expires_on": "1300"}, False),
        ({"expires_on": "1301"}, True),
        ({"expires_on": "9999", "refresh_on": "1000"}, False),
        ({"expires_on": "9999", "refresh_on": "1001"}, True),
        ({"expires_on": "9999", "refresh_on": ""}, True),
        ({"expires_on": "9999", "refresh_on": None}, True),
        ({"expires_on": "900", "refresh_on": "9999"}, False),
        ({"expires_on": "-5000"}, False),
    ],
)
def test_token_is_used_until_five_minutes_before_expiry(
    path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], *, found: bool
) -> None:
    """A token is used until five minutes before it expires, or until it should be renewed, if the authority says so."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert find(path, {"AccessToken": {"a": entry(**changes)}}) == ("token" if found else None)


def test_token_for_more_scopes(path: Path) -> None:
    """A token that is also for other scopes is used; one for only some of the scopes is not."""
    assert find(path, {"AccessToken": {"a": entry(target="other scope")}}) == "token"
    assert text_of(find_token(path, CLIENT, ["scope", "other"])) == "token"
    assert find_token(path, CLIENT, ["scope", "third"]) is None


def test_missing_file(path: Path) -> None:
    """Without a file there is no token."""
    assert find_token(path, CLIENT, SCOPES) is None


def test_each_identity_has_its_own_path(own_folders: Path) -> None:
    """Authority, tenant and client each affect the name."""
    profiles = [
        Profile(authority=authority, tenant=tenant, client_id=client_id)
        for authority, tenant, client_id in (
            ("https://a", "b", "c"),
            ("https://a", "b", "d"),
            ("https://ab", None, "c"),
            ("https://a", "bc", None),
        )
    ]
    paths = {cache_path(each) for each in profiles} | {cache_path(profiles[0], "cae")}
    assert len(paths) == 5
    assert {each.parent for each in paths} == {own_folders / "cache_directory" / "tokens"}
    assert all(len(each.stem) == 32 and each.suffix == ".json" for each in paths)
    assert cache_path(profiles[0]) == cache_path(profiles[0])


def test_tokens_on_macos(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Keychain's tokens are looked up through MSAL, since there is no file to read."""
    calls = []

    class Cache:
        def search(self, kind: str) -> list[dict[str, Any]]:
            calls.append(kind)
            return [entry(secret="keychain")]

    def opened(find_path: Any) -> Cache:
        calls.append(find_path())
        return Cache()

    monkeypatch.setattr(cached_token, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(locked_token_cache, "open_token_cache", opened)
    assert text_of(find_token(path, CLIENT, SCOPES)) == "keychain"
    assert calls == [path, "AccessToken"]
