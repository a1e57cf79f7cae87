"""A token is used from a cache file only if everything known about it matches; the file may contain anything."""

from __future__ import annotations

import errno
import itertools
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import malformed
from keyvouch._system import files
from keyvouch.entra import token_cache
from keyvouch.entra.token_cache import find_token, location, persisted
from keyvouch.errors import ConfigurationError, KeyvouchError

CLIENT, SCOPES = "client", ["scope"]


def entry(**changes: object) -> dict[str, Any]:
    return {
        "credential_type": "AccessToken",
        "secret": "token",
        "home_account_id": None,
        "environment": "login.example",
        "client_id": CLIENT,
        "target": "scope",
        "realm": "tenant",
        "token_type": "Bearer",
        "cached_at": str(int(time.time())),
        "expires_on": str(int(time.time()) + 3600),
        **changes,
    }


def find(place: Path, content: object) -> str | None:
    octets = content if isinstance(content, bytes) else json.dumps(content).encode()
    place.touch(mode=0o600)
    place.write_bytes(octets)
    return find_token(place, CLIENT, SCOPES)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache.json"


def test_token_that_fits(place: Path) -> None:
    """A valid token of the client for the scope."""
    assert find(place, {"AccessToken": {"a": entry()}}) == "token"


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
def test_tokens_that_do_not_fit(place: Path, changes: dict[str, object]) -> None:
    """Tokens for another client, scope or user, expired ones and invalid ones are skipped; the next one is found."""
    assert find(place, {"AccessToken": {"a": entry(**changes)}}) is None
    assert find(place, {"AccessToken": {"a": entry(**changes), "b": entry(secret="next")}}) == "next"


@pytest.mark.parametrize("name", ["client_id", "target", "expires_on", "secret"])
def test_tokens_that_lack_something(place: Path, name: str) -> None:
    """A token without one of its members is skipped."""
    bare = entry()
    del bare[name]
    assert find(place, {"AccessToken": {"a": bare, "b": entry(secret="next")}}) == "next"


@pytest.mark.parametrize("each", [5, None, "x", [], [5]])
def test_entries_that_are_not_tables(place: Path, each: object) -> None:
    """Other values instead of a token or the table of tokens are skipped."""
    assert find(place, {"AccessToken": {"a": each, "b": entry()}}) == "token"
    assert find(place, {"AccessToken": each}) is None
    assert find(place, each) is None


@pytest.mark.parametrize("content", [*malformed.WHOLE, b"\xff\xfe", b'{"AccessToken": "\xff"}'])
def test_content_that_is_damaged(place: Path, content: bytes) -> None:
    """Content that is not UTF-8 or JSON, or too deep, has no token; MSAL starts with an empty, writable cache."""
    assert find(place, content) is None
    cache = persisted(lambda: place)
    cache.add(
        {
            "client_id": CLIENT,
            "scope": SCOPES,
            "token_endpoint": "https://login.example/t",
            "response": {"access_token": "fresh", "expires_in": 3600, "token_type": "Bearer"},
        }
    )
    assert find_token(place, CLIENT, SCOPES) == "fresh"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=malformed.fuzzed(("AccessToken", "secret", "target", "client_id", "expires_on", "refresh_on", "a")))
def test_arbitrary_content(place: Path, content: bytes) -> None:
    """Any JSON gives a token, or none."""
    find(place, content)


# How long a token is used


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
def test_token_is_used_to_the_second(
    place: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], *, found: bool
) -> None:
    """A token is used until five minutes before it expires, or until it should be renewed, if the authority says so."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert find(place, {"AccessToken": {"a": entry(**changes)}}) == ("token" if found else None)


def test_token_for_more_scopes(place: Path) -> None:
    """A token that is also for other scopes is used; one for only some of the scopes is not."""
    assert find(place, {"AccessToken": {"a": entry(target="other scope")}}) == "token"
    assert find_token(place, CLIENT, ["scope", "other"]) == "token"
    assert find_token(place, CLIENT, ["scope", "third"]) is None


def test_missing_file(place: Path) -> None:
    """Without a file there is no token."""
    assert find_token(place, CLIENT, SCOPES) is None


# What MSAL reads


def kept(place: Path, content: object) -> list[str]:
    """The tokens that MSAL finds in a cache file."""
    place.touch(mode=0o600)
    place.write_bytes(json.dumps(content).encode())
    return [each["secret"] for each in persisted(lambda: place).search("AccessToken")]


def test_sound_cache_is_given_to_msal(place: Path) -> None:
    """MSAL gets all tokens, even those without optional members, and beside other tables."""
    bare = entry(secret="bare", realm="other")
    del bare["cached_at"]
    other = {"RefreshToken": {"r": {"secret": "r"}}, "Account": {}}
    assert kept(place, {**other, "AccessToken": {"a": entry(refresh_on="5"), "b": bare}}) == ["token", "bare"]
    assert kept(place, other) == []
    assert kept(place, {}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("secret", "target", "client_id", "environment"), (None, 5, [])),
        *itertools.product(("expires_on", "cached_at", "refresh_on"), ("soon", "-1", "1.5", None)),
    ],
)
def test_cache_that_msal_would_fail_at(place: Path, name: str, value: object) -> None:
    """A cache with one token that MSAL would fail on counts as empty."""
    assert kept(place, {"AccessToken": {"a": entry(**{name: value}), "b": entry(realm="other")}}) == []


@pytest.mark.parametrize("name", ["secret", "target", "client_id", "environment", "expires_on"])
def test_cache_whose_token_lacks_something(place: Path, name: str) -> None:
    """A cache with one token that lacks what MSAL always reads counts as empty."""
    bare = entry()
    del bare[name]
    assert kept(place, {"AccessToken": {"a": bare, "b": entry(realm="other")}}) == []


@pytest.mark.parametrize("table", [5, [], "x", None, {"a": 5}, {"a": {}, "b": []}])
@pytest.mark.parametrize("name", ["AccessToken", "RefreshToken", "Other"])
def test_cache_with_a_table_that_is_none(place: Path, name: str, table: object) -> None:
    """A cache with another value instead of a table of entries counts as empty."""
    assert kept(place, {"AccessToken": {"a": entry()}, name: table}) == []


def test_tokens_on_macos(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Keychain's tokens are looked up through MSAL, since there is no file to read."""
    asked = []

    class Cache:
        def search(self, kind: str) -> list[dict[str, Any]]:
            asked.append(kind)
            return [entry(secret="keychain")]

    def opened(find_place: Any) -> Cache:
        asked.append(find_place())
        return Cache()

    monkeypatch.setattr(token_cache, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(token_cache, "persisted", opened)
    assert find_token(place, CLIENT, SCOPES) == "keychain"
    assert asked == [place, "AccessToken"]


# Locations, and messages if one cannot be used


def test_each_identity_has_its_own_place(own_folders: Path) -> None:
    """Authority, tenant and client each affect the name."""
    names = {location(*each) for each in (("a", "b", "c"), ("a", "b", "d"), ("ab", "", "c"), ("a", "bc", ""))}
    assert len(names) == 4
    assert {each.parent for each in names} == {own_folders / "cache_directory" / "tokens"}
    assert all(len(each.stem) == 32 and each.suffix == ".json" for each in names)
    assert location("a", "b", "c") == location("a", "b", "c")


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (ConfigurationError("No home.", hint="Make one."), "No home."),
        (OSError(errno.ENOSPC, "No space"), "[Errno 28] No space."),
    ],
)
def test_warning_for_a_cache_in_memory(caplog: pytest.LogCaptureFixture, problem: Exception, reason: str) -> None:
    """The warning has the reason and both remedies; tokens are kept in memory in any case, silently if requested."""

    def fail() -> Path:
        raise problem

    for quiet in (True, False):
        cache = persisted(fail, quiet=quiet)
        assert list(cache.search("AccessToken")) == []
        if quiet:
            assert not caplog.messages
    (line,) = caplog.messages
    assert line.startswith(f"The token was not cached: {reason} Set CACHE_DIRECTORY")
    assert 'token-cache = "memory"' in line


def add(cache: Any, secret: str) -> None:
    response = {"access_token": secret, "expires_in": 3600, "token_type": "Bearer"}
    cache.add({"client_id": CLIENT, "scope": SCOPES, "token_endpoint": "https://login.example/t", "response": response})


@pytest.mark.parametrize("function", ["write_own", "locked"])
def test_cache_that_cannot_be_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    """There is one warning until writing works again, and another on the next failure; tokens are still returned."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = persisted(lambda: place)
    for _ in range(2):
        caplog.clear()
        with monkeypatch.context() as change:
            change.setattr(files, function, fail)
            add(cache, "one")
            add(cache, "two")
        (line,) = caplog.messages
        assert os.strerror(errno.ENOSPC) in line
        assert [each["secret"] for each in cache.search("AccessToken")] == ["two"]
        add(cache, "three")
        assert len(caplog.messages) == 1
        assert find_token(place, CLIENT, SCOPES) == "three"


def test_error_for_a_file_that_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and the reason, and its hint lists the remedies."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "write_own", fail)
    with pytest.raises(KeyvouchError) as caught:
        token_cache._persistence(place).save("{}")
    assert caught.value.message == f"The token cache {place} cannot be written: {os.strerror(errno.EROFS)}."
    assert "CACHE_DIRECTORY" in caught.value.hint
