"""Outcomes of token requests."""

from __future__ import annotations

import json

import pytest
import requests
from msal.exceptions import MsalServiceError

from keyvouch.entra.client_key import UsedKey
from keyvouch.entra.outcome import Outcome
from keyvouch.errors import AuthorityRefused, AuthorityUnavailable, ConfigurationError, KeyvouchError, StoreUnavailable
from scripted_store import new_key


@pytest.mark.parametrize("result", [None, {}, {"error": None}, {"error": None, "error_description": None}, [], 5])
def test_message_does_not_contain_none(result: object) -> None:
    """The error for a result without a reason does not contain "None"."""
    with pytest.raises((AuthorityRefused, AuthorityUnavailable)) as caught:
        Outcome(result).access_token("https://login", None)
    assert "None" not in str(caught.value)
    assert getattr(caught.value, "error", "") != "None"


def test_message_of_an_error_without_text() -> None:
    """The error for an operating system error without a text does not contain "None" either."""
    for error in (OSError(), OSError("text"), ConnectionError(), ValueError(), KeyError("x")):
        found = Outcome(error=error)._translated(error, "https://login", None)
        assert isinstance(found, KeyvouchError)
        assert "None" not in str(found)


def test_outcome_for_msal() -> None:
    """A caller gets a copy of the result, or the error itself."""
    result = {"access_token": "a"}
    given = Outcome(result).as_msal()
    assert given == result
    assert given is not result
    assert Outcome(5).as_msal() == 5
    with pytest.raises(KeyError, match="x"):
        Outcome(error=KeyError("x")).as_msal()


def test_outcomes_after_which_the_next_key_is_tried() -> None:
    """A KeyvouchError of one key that another may not have leads to the next; a defect in a store's code does not."""
    retry, final = StoreUnavailable("x"), ConfigurationError("x")
    assert retry.try_next_key
    assert not final.try_next_key
    assert Outcome(error=retry, from_store=True).store_failed
    assert not Outcome(error=retry).store_failed
    assert not Outcome(error=final, from_store=True).store_failed
    assert not Outcome(error=KeyError(), from_store=True).store_failed
    assert Outcome(error=KeyError(), from_store=True).is_store_defect
    assert not Outcome(error=KeyError()).is_store_defect
    assert not Outcome(error=retry, from_store=True).is_store_defect


def test_token_of_an_outcome() -> None:
    """An outcome gives its token; an authority that asks to wait is unavailable, whatever else it says."""
    assert Outcome({"access_token": "a.b.c"}).access_token("https://login", None) == "a.b.c"
    with pytest.raises(AuthorityUnavailable, match="neither a token nor an error") as caught:
        Outcome({}).access_token("https://login", 7.0)
    assert caught.value.retry_after == 7
    assert caught.value.hint == "Try again in 7 seconds."
    for result, wait in (
        ({"error": "x", "error_description": "busy"}, 7.0),
        ({"error": "temporarily_unavailable"}, None),
    ):
        with pytest.raises(AuthorityUnavailable, match="Unexpected response from https://login") as caught:
            Outcome(result).access_token("https://login", wait)
        assert caught.value.retry_after == wait
    with pytest.raises(AuthorityRefused):
        Outcome({"error": "x"}).access_token("https://login", None)


def test_errors_of_an_outcome() -> None:
    """A defect or KeyvouchError stays unchanged; anything else becomes a KeyvouchError, with its cause."""
    used_key = UsedKey("pem:/a", new_key().public_key(), None)
    for own_error in (KeyError("x"), StoreUnavailable("x")):
        with pytest.raises(type(own_error)) as caught:
            Outcome(error=own_error, from_store=True).access_token("https://login", None)
        assert caught.value is own_error
    cases: list[tuple[Exception, UsedKey | None, type[KeyvouchError], str]] = [
        (ValueError("odd scope"), None, ConfigurationError, "MSAL rejected the request: odd scope"),
        (ValueError("odd"), used_key, AuthorityUnavailable, "https://login: ValueError."),
        (json.JSONDecodeError("x", "", 0), used_key, AuthorityUnavailable, "https://login: it is not valid JSON."),
        (MsalServiceError("HTTP Error: 503", error="x", error_description="y"), used_key, AuthorityUnavailable, "503"),
        (requests.exceptions.Timeout("x"), used_key, AuthorityUnavailable, "timed out"),
    ]
    for error, assertion, kind, message in cases:
        with pytest.raises(kind) as found:
            Outcome(error=error, used_key=assertion).access_token("https://login", None)
        assert message in found.value.message
        assert found.value.hint
        assert found.value.__cause__ is error
    with pytest.raises(AuthorityUnavailable) as late:
        Outcome(error=ValueError("odd"), used_key=used_key).access_token("https://login", 3.0)
    assert late.value.retry_after == 3
