"""What can be sent as a token, and what a token endpoint may return."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings

import malformed
from keyvouch.errors import SecretIncorrect
from keyvouch.tokens import describe_flaw, is_token, require_token

GOOD = {"access_token": "a.b.c", "expires_in": 3599}


@pytest.mark.parametrize("value", ["a", "a.b-c_d~e+f/g==", "!~"])
def test_tokens(value: str) -> None:
    """Any printable ASCII text is accepted."""
    assert is_token(value)
    require_token(value, "token", "env:TOKEN")


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "\na", "a\r", "a\0", "a\x7f", "\u00e9", "\u20ac", None, 5, b"a", []]
)
def test_invalid_tokens(value: object) -> None:
    """Spaces, control characters, non-ASCII letters and values that are not text are refused."""
    assert not is_token(value)


def test_error_names_the_reference_only() -> None:
    """The value is in neither the error nor its causes."""
    with pytest.raises(SecretIncorrect, match="The token from env:TOKEN") as caught:
        require_token("marker\n", "token", "env:TOKEN")
    assert "marker" not in f"{caught.value!r}{caught.value}"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"expires_in": "3599", "ext_expires_in": 0, "refresh_in": "1", "expires_on": "06/20/2017 02:57:58 +00:00"},
        {"refresh_token": None, "id_token": None, "error": {"code": 5}, "unknown": [[]]},
        {"issuer": "https://i", "token_endpoint": "https://t", "metadata": []},
    ],
)
def test_valid_responses(changes: dict[str, object]) -> None:
    """Numbers may be strings, as old servers send them; unused fields may be anything."""
    assert describe_flaw(json.dumps(GOOD | changes).encode()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": 5},
        {"access_token": "a\nb"},
        {"access_token": ""},
        {"expires_in": -1},
        {"expires_in": 10**10},
        {"expires_in": "-1"},
        {"expires_in": "10000000000"},
        {"expires_in": "5 "},
        {"expires_in": 1.5},
        {"expires_in": None},
        {"expires_in": True},
        {"expires_on": -1},
        {"expires_on": 10**12},
        {"expires_on": "9" * 41},
        {"scope": None},
        {"scope": []},
        {"token_endpoint": 5},
        {"metadata": [5]},
    ],
)
def test_invalid_responses(changes: dict[str, object]) -> None:
    """The error says what is wrong, without the value."""
    flaw = describe_flaw(json.dumps(GOOD | changes).encode())
    assert flaw
    assert "\n" not in flaw


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"5", b"{", b"\xff", b"NaN", b"[" * 10_000, b'{"expires_in": NaN}']
)
def test_bodies_that_are_not_json_objects(body: bytes) -> None:
    """A body that is not JSON, or not an object, is refused."""
    assert describe_flaw(body)


@settings(max_examples=100, deadline=None)
@given(body=malformed.fuzzed(("access_token", "expires_in", "scope", "metadata", "token_endpoint")))
def test_arbitrary_json(body: bytes) -> None:
    """Any JSON is either valid or gives an error text."""
    assert describe_flaw(body) != ""
