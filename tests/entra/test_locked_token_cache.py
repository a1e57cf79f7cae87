"""MSAL's token cache in a file: shared by processes, ignored if damaged, in memory if it cannot be written."""

from __future__ import annotations

import errno
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cached_entries import CLIENT, SCOPES, entry
from keyvouch._system import files
from keyvouch.entra.cache_file import CacheFile
from keyvouch.entra.cached_token import find_token
from keyvouch.entra.locked_token_cache import open_token_cache
from keyvouch.errors import ConfigurationError, KeyvouchError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.json"


def secrets_in(path: Path, content: object) -> list[str]:
    """The tokens that MSAL finds in a cache file."""
    path.touch(mode=0o600)
    path.write_bytes(json.dumps(content).encode())
    return [each["secret"] for each in open_token_cache(lambda: path).search("AccessToken")]


def test_valid_cache_is_loaded_by_msal(path: Path) -> None:
    """MSAL gets all tokens, even those without optional members, and beside other tables."""
    bare = entry(secret="bare", realm="other")
    del bare["cached_at"]
    other = {"RefreshToken": {"r": {"secret": "r"}}, "Account": {}}
    assert secrets_in(path, {**other, "AccessToken": {"a": entry(refresh_on="5"), "b": bare}}) == ["token", "bare"]
    assert secrets_in(path, other) == []
    assert secrets_in(path, {}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("secret", "target", "client_id", "environment"), (None, 5, [])),
        *itertools.product(("expires_on", "cached_at", "refresh_on"), ("soon", "-1", "1.5", None)),
    ],
)
def test_cache_with_an_invalid_field(path: Path, name: str, value: object) -> None:
    """A cache with one token that MSAL would fail on counts as empty."""
    assert secrets_in(path, {"AccessToken": {"a": entry(**{name: value}), "b": entry(realm="other")}}) == []


@pytest.mark.parametrize("name", ["secret", "target", "client_id", "environment", "expires_on"])
def test_cache_with_a_missing_field(path: Path, name: str) -> None:
    """A cache with one token that lacks what MSAL always reads counts as empty."""
    bare = entry()
    del bare[name]
    assert secrets_in(path, {"AccessToken": {"a": bare, "b": entry(realm="other")}}) == []


@pytest.mark.parametrize("table", [5, [], "x", None, {"a": 5}, {"a": {}, "b": []}])
@pytest.mark.parametrize("name", ["AccessToken", "RefreshToken", "Other"])
def test_cache_with_an_invalid_table(path: Path, name: str, table: object) -> None:
    """A cache with another value instead of a table of entries counts as empty."""
    assert secrets_in(path, {"AccessToken": {"a": entry()}, name: table}) == []


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (ConfigurationError("No home.", hint="Make one."), "No home."),
        (OSError(errno.ENOSPC, "No space"), "[Errno 28] No space."),
    ],
)
def test_warning_for_a_cache_in_memory(caplog: pytest.LogCaptureFixture, problem: Exception, reason: str) -> None:
    """The first token that is not cached is a warning with the reason and both remedies, unless it is to be silent."""

    def fail() -> Path:
        raise problem

    for quiet in (True, False):
        cache = open_token_cache(fail, quiet=quiet)
        assert list(cache.search("AccessToken")) == []
        assert not caplog.messages
        add(cache, "one")
        add(cache, "two")
        assert len(list(cache.search("AccessToken"))) == 1
        if quiet:
            assert not caplog.messages
    (line,) = caplog.messages
    assert line.startswith(f"The token was not cached: {reason} Set CACHE_DIRECTORY")
    assert 'token-cache = "memory"' in line


def add(cache: Any, secret: str) -> None:
    response = {"access_token": secret, "expires_in": 3600, "token_type": "Bearer"}
    cache.add({"client_id": CLIENT, "scope": SCOPES, "token_endpoint": "https://login.example/t", "response": response})


def test_change_within_the_clock_resolution(path: Path) -> None:
    """What another process saved is read, even if the time of the file is the same as before, or earlier."""
    cache, other = open_token_cache(lambda: path), open_token_cache(lambda: path)
    add(cache, "first")
    for seconds, secret in ((0, "second"), (-5, "third")):
        before = path.stat().st_mtime_ns + seconds * 10**9
        add(other, secret)
        os.utime(path, ns=(before, before))
        assert [each["secret"] for each in cache.search("AccessToken")] == [secret]


@pytest.mark.parametrize("function", ["write_own", "locked"])
def test_cache_that_cannot_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    """There is one warning until writing works again, and another on the next failure; tokens are still returned."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = open_token_cache(lambda: path)
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
        found = find_token(path, CLIENT, SCOPES)
        assert found
        assert found.text == "three"


def test_error_for_a_file_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and the reason, and its hint lists the remedies."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files, "write_own", fail)
    with pytest.raises(KeyvouchError) as caught:
        CacheFile(path).save("{}")
    assert caught.value.message == f"The token cache {path} cannot be written: {os.strerror(errno.EROFS)}."
    assert "CACHE_DIRECTORY" in caught.value.hint
