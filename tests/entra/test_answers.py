"""What the authority answers: tokens, refusals, and what is neither."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import malformed
from keyvouch.entra.answers import Outcome, from_discovery
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import AuthorityRefused, AuthorityUnavailable, ConfigurationError, KeyvouchError
from keyvouch.testing.authority import App, Authority
from keyvouch.testing.authority.server import Response
from keyvouch.testing.throwaway import throwaway_signer
from signing_in import SCOPE

JSON = {"Content-Type": "application/json"}
TOKEN = {
    "token_type": "Bearer",
    "expires_in": 3599,
    "ext_expires_in": 3599,
    "refresh_in": 1800,
    "scope": "a",
    "access_token": "a.b.c",
}
REFUSAL = {
    "error": "invalid_client",
    "error_description": "AADSTS700027: No.",
    "error_codes": [700027],
    "correlation_id": "c",
    "claims": "{}",
}


@pytest.fixture(scope="module")
def own() -> Iterator[tuple[Authority, Callable[[], ConfidentialClient]]]:
    with Authority(refuse_replays=False) as authority, throwaway_signer() as signer:
        app: App = authority.register(certificates=signer.chain)

        def client() -> ConfidentialClient:
            return ConfidentialClient(
                app.client_id,
                [signer],
                authority=authority.authority,
                ca_file=authority.ca_file,
                instance_discovery=False,
            )

        yield authority, client


def asked(own: Any, status: int, body: bytes) -> KeyvouchError | None:
    """Return the error that comes out where the token endpoint answers like that; then a good answer is a token."""
    authority, make = own
    with make() as client:
        authority.answer_next(status, body, JSON)
        found = error_of(lambda: lives(client.token_result([SCOPE])))
        authority._scripted.clear()
        if found is not None:
            assert list(client.token_cache.search("AccessToken")) == []
            assert client.access_token([SCOPE]).count(".") == 2
        return found


def lives(result: dict[str, Any]) -> None:
    assert isinstance(result["expires_in"], int)


def error_of(doing: Callable[[], object]) -> KeyvouchError | None:
    """Return the error of keyvouch's that it raises; any other fails the test."""
    try:
        doing()
    except KeyvouchError as error:
        return error
    return None


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("body", malformed.WHOLE, ids=range(len(malformed.WHOLE)))
def test_malformed_answers(own: Any, status: int, body: bytes) -> None:
    """Bodies that are not a token endpoint's: no foreign error, and nothing is kept."""
    error = asked(own, status, body)
    assert isinstance(error, AuthorityUnavailable | AuthorityRefused)
    if status == 200 and b"error" not in body:
        assert isinstance(error, AuthorityUnavailable)


def test_wrong_fields_of_a_token(own: Any) -> None:
    """A token in which one field is missing, or holds something else."""
    for body in malformed.variants(TOKEN):
        error = asked(own, 200, body)
        assert error is None or isinstance(error, AuthorityUnavailable), body


def test_wrong_fields_of_a_refusal(own: Any) -> None:
    """A refusal in which one field is missing, or holds something else; no message says None."""
    for body in malformed.variants(REFUSAL):
        error = asked(own, 401, body)
        assert isinstance(error, AuthorityRefused | AuthorityUnavailable), body
        assert "None" not in str(error), body
        assert getattr(error, "error", "") != "None"


@pytest.mark.parametrize(
    "value", ["soon", "-1", -1, 10**30, float("nan"), 1e300, True, [], {}, None], ids=lambda value: repr(value)[:9]
)
def test_lifetimes_that_are_none(own: Any, value: object) -> None:
    """A token that lives for no number of seconds is not given, and not kept."""
    assert isinstance(asked(own, 200, json.dumps(TOKEN | {"expires_in": value}).encode()), AuthorityUnavailable)


def _answer(_authority: Authority, response: Response, *_: object) -> Response:
    return response


DISCOVERY = {
    "token_endpoint": "https://localhost/t",
    "authorization_endpoint": "https://localhost/a",
    "issuer": "https://localhost/i",
}


@pytest.mark.parametrize("oidc", [False, True])
def test_malformed_discovery(own: Any, monkeypatch: pytest.MonkeyPatch, oidc: bool) -> None:
    """Whatever comes in place of the authority's endpoints."""
    authority, _ = own
    named = {"oidc_authority": f"{authority.authority}/v2.0"} if oidc else {"authority": authority.authority}
    for body in (*malformed.WHOLE, *malformed.variants(DISCOVERY)):
        with monkeypatch.context() as patch:
            response = Response(200, body, JSON)
            patch.setattr(Authority, "_respond", functools.partialmethod(_answer, response))
            error = error_of(
                lambda: ConfidentialClient(
                    "id", ["pem:/a"], ca_file=authority.ca_file, instance_discovery=False, **named
                ).close()
            )
        assert error is None or error.hint
        if body in malformed.WHOLE:
            assert isinstance(error, AuthorityUnavailable), body[:50]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=st.sampled_from((200, 200, 400, 401, 403)), body=malformed.fuzzed((*TOKEN, *REFUSAL)))
def test_arbitrary_json(own: Any, status: int, body: bytes) -> None:
    """Any JSON from the token endpoint: a token, or an error of keyvouch's."""
    asked(own, status, body)


def test_callers_own_mistake_stays() -> None:
    """An option that MSAL does not have is a TypeError, as any function raises it."""
    mistake = TypeError("ClientApplication.__init__() got an unexpected keyword argument 'bogus'")
    assert from_discovery(mistake, "https://login") is mistake


@pytest.mark.parametrize(
    "text",
    [
        "int() argument must be a string, a bytes-like object or a real number, not 'list'",
        "argument of type 'NoneType' is not iterable",
        "argument of type 'int' is not a container or iterable",
        "list indices must be integers or slices, not str",
    ],
)
def test_type_errors_about_answers_are_ours(text: str) -> None:
    """A TypeError of MSAL's own code, about an answer, is no mistake of the caller's."""
    assert isinstance(from_discovery(TypeError(text), "https://login"), AuthorityUnavailable)


@pytest.mark.parametrize("result", [None, {}, {"error": None}, {"error": None, "error_description": None}, [], 5])
def test_no_message_says_none(result: object) -> None:
    """A result without a reason has no None in its error."""
    with pytest.raises((AuthorityRefused, AuthorityUnavailable)) as caught:
        Outcome(result).token("https://login", None)
    assert "None" not in str(caught.value)
    assert getattr(caught.value, "error", "") != "None"


def test_errors_without_text_say_no_none() -> None:
    """Nor has an error of the system's without a text."""
    for error in (OSError(), OSError("text"), ConnectionError(), ValueError(), KeyError("x")):
        found = Outcome(error=error)._as_ours(error, "https://login", None)
        assert isinstance(found, KeyvouchError)
        assert "None" not in str(found)
    assert isinstance(from_discovery(ValueError(None), "https://login"), ConfigurationError)
