"""The authority's responses: tokens, refusals, and anything else."""

from __future__ import annotations

import functools
import itertools
import json
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msal.exceptions import MsalServiceError

import malformed
from keyvouch._system.sockets import ResponseTooLarge
from keyvouch.entra.answers import Outcome, from_discovery, from_network
from keyvouch.entra.discovery import UnusableAnswer
from keyvouch.entra.keys import Sent
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import AuthorityRefused, AuthorityUnavailable, ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.testing.authority import App, Authority
from keyvouch.testing.authority.server import Response
from keyvouch.testing.throwaway import throwaway_signer
from scripted_store import new_key
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
    """Return the error for such a response of the token endpoint; a valid response then gives a token."""
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
    """Return the KeyvouchError that it raises; any other error fails the test."""
    try:
        doing()
    except KeyvouchError as error:
        return error
    return None


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("body", malformed.WHOLE, ids=range(len(malformed.WHOLE)))
def test_malformed_answers(own: Any, status: int, body: bytes) -> None:
    """A body that is not a token response raises no foreign error, and nothing is cached."""
    error = asked(own, status, body)
    assert isinstance(error, AuthorityUnavailable | AuthorityRefused)
    if status == 200 and b"error" not in body:
        assert isinstance(error, AuthorityUnavailable)


def test_wrong_fields_of_a_token(own: Any) -> None:
    """A token response in which one field is missing or has another type."""
    for body in malformed.variants(TOKEN):
        error = asked(own, 200, body)
        assert error is None or isinstance(error, AuthorityUnavailable), body


def test_wrong_fields_of_a_refusal(own: Any) -> None:
    """A refusal in which one field is missing or has another type; no message contains "None"."""
    for body in malformed.variants(REFUSAL):
        error = asked(own, 401, body)
        assert isinstance(error, AuthorityRefused | AuthorityUnavailable), body
        assert "None" not in str(error), body
        assert getattr(error, "error", "") != "None"


@pytest.mark.parametrize(
    "value", ["soon", "-1", -1, 10**30, float("nan"), 1e300, True, [], {}, None], ids=lambda value: repr(value)[:9]
)
def test_lifetimes_that_are_none(own: Any, value: object) -> None:
    """A token whose lifetime is not a number of seconds is neither returned nor cached."""
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
    """Any other response instead of the authority's endpoints is an error."""
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
    """Any JSON from the token endpoint gives a token or a KeyvouchError."""
    asked(own, status, body)


def test_callers_own_mistake_stays() -> None:
    """An option that MSAL does not have raises TypeError, as any function does."""
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
    """A TypeError from MSAL's own code about a response is not the caller's mistake."""
    assert isinstance(from_discovery(TypeError(text), "https://login"), AuthorityUnavailable)


@pytest.mark.parametrize("result", [None, {}, {"error": None}, {"error": None, "error_description": None}, [], 5])
def test_no_message_says_none(result: object) -> None:
    """The error for a result without a reason does not contain "None"."""
    with pytest.raises((AuthorityRefused, AuthorityUnavailable)) as caught:
        Outcome(result).token("https://login", None)
    assert "None" not in str(caught.value)
    assert getattr(caught.value, "error", "") != "None"


def test_errors_without_text_say_no_none() -> None:
    """The error for an operating system error without a text does not contain "None" either."""
    for error in (OSError(), OSError("text"), ConnectionError(), ValueError(), KeyError("x")):
        found = Outcome(error=error)._as_ours(error, "https://login", None)
        assert isinstance(found, KeyvouchError)
        assert "None" not in str(found)
    assert isinstance(from_discovery(ValueError(None), "https://login"), ConfigurationError)


# Errors on the network


def chained(*errors: Exception) -> Exception:
    """Return the last of these errors, each raised from the one before it."""
    for former, error in itertools.pairwise(errors):
        error.__cause__ = former
    return errors[-1]


def untrusted(reason: str) -> Exception:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = reason
    return chained(error, requests.exceptions.SSLError("wrapped"))


def no_tls() -> Exception:
    error = ssl.SSLError(1, "wrong version")
    error.reason = "WRONG_VERSION_NUMBER"
    return chained(error, requests.exceptions.SSLError("wrapped"))


def dead_end(error: Exception) -> Exception:
    return chained(error, requests.exceptions.ConnectionError("wrapped"))


NETWORK = [
    (untrusted("unable to get local issuer certificate"), ConfigurationError, "unable to get local", "in ca-file"),
    (untrusted("Hostname mismatch"), ConfigurationError, "not trusted: Hostname", "another server's"),
    (untrusted("IP address mismatch"), ConfigurationError, "not trusted: IP", "another server's"),
    (untrusted("certificate has expired"), ConfigurationError, "has expired", "clock"),
    (untrusted("certificate is not yet valid"), ConfigurationError, "not yet valid", "clock"),
    (no_tls(), ConfigurationError, "no TLS with https://login: wrong version number.", "port"),
    (requests.exceptions.SSLError("wrapped"), ConfigurationError, "no TLS with https://login: no tls.", "PEM"),
    (requests.exceptions.InvalidProxyURL("x"), ConfigurationError, "proxy URL", "http://host:port"),
    (requests.exceptions.InvalidSchema("x"), ConfigurationError, "proxy URL", "http://host:port"),
    (UnusableAnswer("too odd"), AuthorityUnavailable, "no usable answer: too odd.", "later"),
    (requests.exceptions.JSONDecodeError("x", "", 0), AuthorityUnavailable, "answer: it is not JSON.", "later"),
    (requests.exceptions.Timeout("x"), AuthorityUnavailable, "cannot be reached: timed out.", "network"),
    (dead_end(OSError(111, "No way")), AuthorityUnavailable, "cannot be reached: No way.", "network"),
    (dead_end(OSError("text")), AuthorityUnavailable, "cannot be reached: ConnectionError.", "network"),
    (requests.exceptions.ConnectionError("x"), AuthorityUnavailable, "reached: ConnectionError.", "network"),
    (
        requests.exceptions.ProxyError("('x', OSError('Tunnel connection failed: 407 No way'))"),
        AuthorityUnavailable,
        "reached: the proxy refused it (Tunnel connection failed: 407 No way).",
        "proxy",
    ),
    (dead_end(ResponseTooLarge()), AuthorityUnavailable, "no usable answer: ", "later"),
    (PermissionError(13, "Not you", "/cache/x"), ConfigurationError, "/cache/x cannot be written: Not you.", "/cache"),
    (OSError(28, "Full"), ConfigurationError, "the token cache cannot be written: Full.", "disk is full"),
]


@pytest.mark.parametrize(("error", "kind", "message", "hint"), NETWORK, ids=range(len(NETWORK)))
def test_errors_of_the_network(error: Exception, kind: type[KeyvouchError], message: str, hint: str) -> None:
    """Each becomes a KeyvouchError with the innermost reason and a hint that fits it."""
    found = from_network(error, "https://login")
    assert type(found) is kind
    assert message in found.message
    assert "None" not in found.message
    assert hint in found.hint
    assert "https://login" in found.message or kind is ConfigurationError


def test_errors_that_are_not_of_the_network() -> None:
    """Errors that are not of the network are left to other handlers."""
    for error in (ValueError("x"), TypeError("x"), KeyError("x"), StoreUnavailable("x")):
        assert from_network(error, "https://login") is None


def test_deepest_reason_within_bounds() -> None:
    """A cyclic or very long chain of errors is followed up to a limit; `reason` is followed like a cause."""
    one, other = requests.exceptions.ConnectionError("x"), OSError(5, "Deep")
    one.__cause__, other.__cause__ = other, one
    assert "Deep" in str(from_network(one, "https://login"))
    outer = requests.exceptions.ConnectionError("x")
    outer.reason = OSError(5, "Inside")  # type: ignore[attr-defined]
    assert "Inside" in str(from_network(outer, "https://login"))


# Exceptions from MSAL


def in_context(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


MSAL = [
    (KeyError("x"), AuthorityUnavailable, "no usable answer: KeyError."),
    (ValueError("odd option"), ConfigurationError, "MSAL refuses the settings: odd option"),
    (ValueError("Unable to get authority configuration for x"), AuthorityRefused, "https://login knows no such tenant"),
    (ValueError("OIDC Discovery failed on x. HTTP status: 404, Error: y"), AuthorityRefused, "knows no such tenant"),
    (ValueError("OIDC Discovery failed on x. HTTP status: 400, Error: y"), AuthorityRefused, "knows no such tenant"),
    (
        ValueError("OIDC Discovery failed on x. HTTP status: 503, Error"),
        AuthorityUnavailable,
        "answer: HTTP status: 503.",
    ),
    (
        in_context(ValueError("OIDC Discovery failed"), json.JSONDecodeError("x", "", 0)),
        AuthorityUnavailable,
        "not JSON.",
    ),
    (
        in_context(ValueError("Unable to get authority configuration"), requests.exceptions.ConnectTimeout("x")),
        AuthorityUnavailable,
        "cannot be reached: timed out.",
    ),
]


@pytest.mark.parametrize(("error", "kind", "message"), MSAL, ids=range(len(MSAL)))
def test_errors_of_the_discovery(error: Exception, kind: type[KeyvouchError], message: str) -> None:
    """MSAL's exceptions are distinguished by their text and their origin; the cause is kept."""
    found = from_discovery(error, "https://login")
    assert type(found) is kind
    assert message in found.message
    assert found.hint
    assert found.__cause__ is error
    if isinstance(found, AuthorityRefused):
        assert (found.error, tuple(found.error_codes)) == ("invalid_tenant", (90002,))


def test_own_error_stays_in_discovery() -> None:
    """A KeyvouchError is passed on unchanged; a TypeError about multiple values is the caller's."""
    own_error = StoreUnavailable("x")
    assert from_discovery(own_error, "https://login") is own_error
    mistake = TypeError("ClientApplication.__init__() got multiple values for argument 'x'")
    assert from_discovery(mistake, "https://login") is mistake


# Outcomes


def test_outcome_for_msal() -> None:
    """A caller gets a copy of the result, or the error itself."""
    result = {"access_token": "a"}
    given = Outcome(result).as_msal()
    assert given == result
    assert given is not result
    assert Outcome(5).as_msal() == 5
    with pytest.raises(KeyError, match="x"):
        Outcome(error=KeyError("x")).as_msal()


def test_which_outcome_leads_to_the_next_key() -> None:
    """A KeyvouchError of one key that another may not have leads to the next; a defect in a store's code does not."""
    retry, final = StoreUnavailable("x"), ConfigurationError("x")
    assert retry.try_next_key
    assert not final.try_next_key
    assert Outcome(error=retry, of_key=True).key_failed
    assert not Outcome(error=retry).key_failed
    assert not Outcome(error=final, of_key=True).key_failed
    assert not Outcome(error=KeyError(), of_key=True).key_failed
    assert Outcome(error=KeyError(), of_key=True).defect
    assert not Outcome(error=KeyError()).defect
    assert not Outcome(error=retry, of_key=True).defect


def test_token_of_an_outcome() -> None:
    """An outcome gives its token; an authority that asks to wait is unavailable, whatever else it says."""
    assert Outcome({"access_token": "a.b.c"}).token("https://login", None) == "a.b.c"
    with pytest.raises(AuthorityUnavailable, match="neither a token nor an error") as caught:
        Outcome({}).token("https://login", 7.0)
    assert caught.value.retry_after == 7
    assert caught.value.hint == "Try again in 7 seconds."
    for result, wait in (
        ({"error": "x", "error_description": "busy"}, 7.0),
        ({"error": "temporarily_unavailable"}, None),
    ):
        with pytest.raises(AuthorityUnavailable, match="https://login gave no usable answer") as caught:
            Outcome(result).token("https://login", wait)
        assert caught.value.retry_after == wait
    with pytest.raises(AuthorityRefused):
        Outcome({"error": "x"}).token("https://login", None)


def test_errors_of_an_outcome() -> None:
    """A defect or KeyvouchError stays unchanged; anything else becomes a KeyvouchError, with its cause."""
    sent = Sent("pem:/a", new_key().public_key(), None)
    for own_error in (KeyError("x"), StoreUnavailable("x")):
        with pytest.raises(type(own_error)) as caught:
            Outcome(error=own_error, of_key=True).token("https://login", None)
        assert caught.value is own_error
    cases: list[tuple[Exception, Sent | None, type[KeyvouchError], str]] = [
        (ValueError("odd scope"), None, ConfigurationError, "MSAL refuses the request: odd scope"),
        (ValueError("odd"), sent, AuthorityUnavailable, "answer: ValueError."),
        (json.JSONDecodeError("x", "", 0), sent, AuthorityUnavailable, "answer: it is not JSON."),
        (MsalServiceError("HTTP Error: 503", error="x", error_description="y"), sent, AuthorityUnavailable, "503"),
        (requests.exceptions.Timeout("x"), sent, AuthorityUnavailable, "timed out"),
    ]
    for error, assertion, kind, message in cases:
        with pytest.raises(kind) as found:
            Outcome(error=error, sent=assertion).token("https://login", None)
        assert message in found.value.message
        assert found.value.hint
        assert found.value.__cause__ is error
    with pytest.raises(AuthorityUnavailable) as late:
        Outcome(error=ValueError("odd"), sent=sent).token("https://login", 3.0)
    assert late.value.retry_after == 3
