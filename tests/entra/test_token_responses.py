"""Responses of the token endpoint and of discovery: tokens, refusals, throttling, and anything else."""

from __future__ import annotations

import functools
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import malformed
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    KeyvouchError,
)
from keyvouch.testing.authority import App, Authority
from keyvouch.testing.authority.server import Response
from keyvouch.testing.throwaway import throwaway_signer
from signing_in import SCOPE, Key

OTHER = "api://other/.default"


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
def server() -> Iterator[tuple[Authority, Callable[[], ConfidentialClient]]]:
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


def error_for_response(server: Any, status: int, body: bytes) -> KeyvouchError | None:
    """Return the error for such a response of the token endpoint; a valid response then gives a token."""
    authority, make_client = server
    with make_client() as client:
        authority.answer_next(status, body, JSON)
        found = error_of(lambda: check_lifetime(client.token_result([SCOPE])))
        authority._scripted.clear()
        if found is not None:
            assert list(client.token_cache.search("AccessToken")) == []
            assert client.access_token([SCOPE]).count(".") == 2
        return found


def check_lifetime(result: dict[str, Any]) -> None:
    assert isinstance(result["expires_in"], int)


def error_of(call: Callable[[], object]) -> KeyvouchError | None:
    """Return the KeyvouchError that it raises; any other error fails the test."""
    try:
        call()
    except KeyvouchError as error:
        return error
    return None


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("body", malformed.WHOLE, ids=range(len(malformed.WHOLE)))
def test_malformed_responses(server: Any, status: int, body: bytes) -> None:
    """A body that is not a token response raises no foreign error, and nothing is cached."""
    error = error_for_response(server, status, body)
    assert isinstance(error, AuthorityUnavailable | AuthorityRefused)
    if status == 200 and b"error" not in body:
        assert isinstance(error, AuthorityUnavailable)


def test_token_with_a_wrong_field(server: Any) -> None:
    """A token response in which one field is missing or has another type."""
    for body in malformed.variants(TOKEN):
        error = error_for_response(server, 200, body)
        assert error is None or isinstance(error, AuthorityUnavailable), body


def test_refusal_with_a_wrong_field(server: Any) -> None:
    """A refusal in which one field is missing or has another type; no message contains "None"."""
    for body in malformed.variants(REFUSAL):
        error = error_for_response(server, 401, body)
        assert isinstance(error, AuthorityRefused | AuthorityUnavailable), body
        assert "None" not in str(error), body
        assert getattr(error, "error", "") != "None"


@pytest.mark.parametrize(
    "value", ["soon", "-1", -1, 10**30, float("nan"), 1e300, True, [], {}, None], ids=lambda value: repr(value)[:9]
)
def test_invalid_lifetimes(server: Any, value: object) -> None:
    """A token whose lifetime is not a number of seconds is neither returned nor cached."""
    assert isinstance(
        error_for_response(server, 200, json.dumps(TOKEN | {"expires_in": value}).encode()), AuthorityUnavailable
    )


def _respond_with(_authority: Authority, response: Response, *_: object) -> Response:
    return response


DISCOVERY = {
    "token_endpoint": "https://localhost/t",
    "authorization_endpoint": "https://localhost/a",
    "issuer": "https://localhost/i",
}


@pytest.mark.parametrize("oidc", [False, True])
def test_malformed_discovery(server: Any, monkeypatch: pytest.MonkeyPatch, oidc: bool) -> None:
    """Any other response instead of the authority's endpoints is an error."""
    authority, _ = server
    option = {"oidc_authority": f"{authority.authority}/v2.0"} if oidc else {"authority": authority.authority}
    for body in (*malformed.WHOLE, *malformed.variants(DISCOVERY)):
        with monkeypatch.context() as patch:
            response = Response(200, body, JSON)
            patch.setattr(Authority, "_respond", functools.partialmethod(_respond_with, response))
            error = error_of(
                lambda: ConfidentialClient(
                    "id", ["pem:/a"], ca_file=authority.ca_file, instance_discovery=False, **option
                ).close()
            )
        assert error is None or error.hint
        if body in malformed.WHOLE:
            assert isinstance(error, AuthorityUnavailable), body[:50]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(status=st.sampled_from((200, 200, 400, 401, 403)), body=malformed.fuzzed((*TOKEN, *REFUSAL)))
def test_arbitrary_json(server: Any, status: int, body: bytes) -> None:
    """Any JSON from the token endpoint gives a token or a KeyvouchError."""
    error_for_response(server, status, body)


# A busy authority.


@pytest.mark.parametrize("body", [b"", b'{"error": "temporarily_unavailable"}', b'{"error": "invalid_client"}'])
def test_throttling_reports_retry_after(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], body: bytes
) -> None:
    """429 is not a refusal, whatever its body; the error says after how many seconds to retry."""
    client = client_of(preferred.uri)
    authority.answer_next(429, body, {"Retry-After": "30", "Content-Type": "application/json"})
    for _ in range(2):  # the second time MSAL sends no request
        with pytest.raises(AuthorityUnavailable) as caught:
            client.access_token([SCOPE])
        assert caught.value.retry_after
        assert 20 < caught.value.retry_after <= 30
    assert len(authority.exchanges) == 1
    assert client.access_token([OTHER])


def test_throttling_without_retry_after(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """If the response does not say how long to wait, MSAL waits five seconds."""
    client = client_of(preferred.uri)
    authority.answer_next(429, b"", {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})
    with pytest.raises(AuthorityUnavailable) as caught:
        client.access_token([SCOPE])
    assert caught.value.retry_after
    assert caught.value.retry_after <= 5


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        '"token"',
        "null",
        "7",
        "{}",
        '{"access_token": 7}',
        '{"access_token": null}',
        '{"access_token": "t", "expires_in": "soon"}',
        '{"access_token": "t", "expires_in": []}',
        '{"access_token": ["t"], "expires_in": 3600}',
        '{"access_token": "t", "expires_in": 3600, "scope": 5}',
        '{"access_token": "t", "expires_in": 3600, "client_info": "%%%"}',
        '{"access_token": "t", "expires_in": 3600, "id_token": "a.b"}',
    ],
)
def test_unexpected_token_response(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], body: str
) -> None:
    """JSON that is not a token response is reported as an unusable response of the authority."""
    client = client_of(preferred.uri)
    authority.answer_next(200, body, {"Content-Type": "application/json"})
    with pytest.raises(AuthorityUnavailable, match="Unexpected response"):
        client.access_token([SCOPE])


@pytest.mark.parametrize(
    "body",
    [
        '{"error": "invalid_client", "error_codes": "700027"}',
        '{"error": "invalid_client", "error_codes": [[], {}, "x"]}',
        '{"error": ["invalid_client"], "error_description": {"a": 1}, "correlation_id": 5}',
        '{"error": "x", "error_description": "\\u0000\\n\\n"}',
    ],
)
def test_refusal_with_unexpected_types(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], body: str
) -> None:
    """A refusal whose members have unexpected types is still reported as a refusal."""
    client = client_of(preferred.uri)
    authority.answer_next(400, body, {"Content-Type": "application/json"})
    with pytest.raises(AuthorityRefused) as caught:
        client.access_token([SCOPE])
    assert caught.value.hint


@pytest.mark.parametrize("error", [{"code": 403, "message": "a gateway's"}, ["x"], 7, None, "a\nb", "日本"])
def test_invalid_error_does_not_affect_later_requests(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], error: object
) -> None:
    """An error in another format, as gateways send it, does not affect later requests."""
    client = client_of(preferred.uri)
    authority.answer_next(403, json.dumps({"error": error}), {"Content-Type": "application/json"})
    with pytest.raises(AuthorityRefused):
        client.access_token([SCOPE])
    assert client.access_token([SCOPE])


def test_dripping_response_times_out(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body sent one byte at a time is abandoned in time, although each byte comes soon."""
    client = client_of(preferred.uri)
    assert client._session

    class Drip(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            time.sleep(0.05)
            return b" "

    adapter = client._session.get_adapter("https://localhost")

    def send(self: Any, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw, response.request = 200, Drip(), request
        return response

    monkeypatch.setattr(type(adapter), "send", send)
    with pytest.raises(AuthorityUnavailable):
        client.access_token([SCOPE], timeout=0.3)


@pytest.mark.parametrize("token", [5, None, "", ["t"], "a\nb", "日本"])
def test_invalid_token_is_not_cached(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], token: object
) -> None:
    """A token that is not a valid string is an error, even if MSAL has cached it; the next call sends a new request."""
    client = client_of(preferred.uri)
    body = {"token_type": "Bearer", "access_token": token, "expires_in": 3600}
    authority.answer_next(200, json.dumps(body), {"Content-Type": "application/json"})
    with pytest.raises(AuthorityUnavailable):
        client.access_token([SCOPE])
    assert client.access_token([SCOPE]).count(".") == 2
