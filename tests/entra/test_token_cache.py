"""A token is taken from a cache's file only if all that is known of it fits, and the file may hold anything."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import malformed
from keyvouch.entra.token_cache import find_token, persisted

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
    """A token of the client, for the scope, that lives."""
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
    """Another client's, another scope's, a user's, one that has ended, and what is no token; the next one is found."""
    assert find(place, {"AccessToken": {"a": entry(**changes)}}) is None
    assert find(place, {"AccessToken": {"a": entry(**changes), "b": entry(secret="next")}}) == "next"


@pytest.mark.parametrize("name", ["client_id", "target", "expires_on", "secret"])
def test_tokens_that_lack_something(place: Path, name: str) -> None:
    """A token without one of its members is passed over."""
    bare = entry()
    del bare[name]
    assert find(place, {"AccessToken": {"a": bare, "b": entry(secret="next")}}) == "next"


@pytest.mark.parametrize("each", [5, None, "x", [], [5]])
def test_entries_that_are_not_tables(place: Path, each: object) -> None:
    """What stands in place of a token, or of the table of tokens."""
    assert find(place, {"AccessToken": {"a": each, "b": entry()}}) == "token"
    assert find(place, {"AccessToken": each}) is None
    assert find(place, each) is None


@pytest.mark.parametrize("content", [*malformed.WHOLE, b"\xff\xfe", b'{"AccessToken": "\xff"}'])
def test_content_that_is_damaged(place: Path, content: bytes) -> None:
    """No UTF-8, no JSON, too deep: no token, and MSAL begins with an empty cache, which it can write."""
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
    """Any JSON: a token, or none."""
    find(place, content)
