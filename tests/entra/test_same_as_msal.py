"""The inherited calls return exactly what unmodified MSAL returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msal
import pytest

from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.entra.transport import Session
from keyvouch.testing.authority import App, Authority
from signing_in import SCOPE, Key, make_key

ANSWERS: dict[str, tuple[int, bytes, dict[str, str]] | None] = {
    "success": None,
    "429": (429, b"", {"Retry-After": "1"}),
    "500": (500, b"", {}),
    "503 with JSON": (503, b'{"error": "temporarily_unavailable"}', {"Content-Type": "application/json"}),
    "empty 403": (403, b"", {}),
    "HTML": (200, b"<html></html>", {"Content-Type": "text/html"}),
    "refusal without codes": (400, b'{"error": "invalid_scope"}', {"Content-Type": "application/json"}),
    "empty object": (200, b"{}", {"Content-Type": "application/json"}),
}


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def app(authority: Authority, key: Key) -> App:
    return authority.register(certificates=[key.certificate])


@pytest.fixture
def applications(authority: Authority, app: App, key: Key) -> Iterator[list[msal.ConfidentialClientApplication]]:
    """Unmodified MSAL and our client, each with its own cache."""
    options: dict[str, Any] = {"authority": authority.authority, "instance_discovery": False}
    plain = msal.ConfidentialClientApplication(
        app.client_id,
        client_credential=client_credential(key.uri),
        http_client=Session(authority.ca_file),
        **options,
    )
    with ConfidentialClient(app.client_id, [key.uri], ca_file=authority.ca_file, **options) as ours:
        yield [plain, ours]


def outcome(
    application: msal.ConfidentialClientApplication, authority: Authority, answer: Any, scopes: Any = (SCOPE,)
) -> object:
    """The outcome of a call: the result without what varies, or the exception's class and text."""
    if answer is not None:
        authority.answer_next(*answer)
    try:
        result = application.acquire_token_for_client(scopes)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return type(error), str(error)
    fresh = {"access_token", "expires_in", "trace_id", "correlation_id", "timestamp", "error_description"}
    return {name: value for name, value in result.items() if name not in fresh}, fresh & result.keys()


@pytest.mark.parametrize("name", ANSWERS)
def test_same_outcome(applications: list[msal.ConfidentialClientApplication], authority: Authority, name: str) -> None:
    """Whatever the authority responds, both have the same outcome."""
    plain, ours = (outcome(application, authority, ANSWERS[name]) for application in applications)

    assert plain == ours


def test_same_refusal(
    applications: list[msal.ConfidentialClientApplication], authority: Authority, app: App, key: Key
) -> None:
    """A refused key gives a dict, as with MSAL."""
    app.remove_certificate(key.certificate)
    plain, ours = (outcome(application, authority, None) for application in applications)

    assert plain == ours


@pytest.mark.parametrize("scopes", [SCOPE, None, [], [None], {SCOPE}, 7])
def test_same_outcome_for_invalid_scopes(
    applications: list[msal.ConfidentialClientApplication], authority: Authority, scopes: Any
) -> None:
    """Invalid scopes have the same outcome, too."""
    plain, ours = (outcome(application, authority, None, scopes) for application in applications)

    assert plain == ours


def test_same_from_cache(applications: list[msal.ConfidentialClientApplication], authority: Authority) -> None:
    """The second time both take the token from their caches, and say so."""
    for application in applications:
        application.acquire_token_for_client([SCOPE])
    plain, ours = (outcome(application, authority, None) for application in applications)

    assert plain == ours
    assert len(authority.exchanges) == len(applications)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("acquire_token_on_behalf_of", ("a.b.c", [SCOPE])),
        ("acquire_token_by_refresh_token", ("token", [SCOPE])),
        ("acquire_token_silent", ([SCOPE], None)),
    ],
)
def test_same_other_calls(
    applications: list[msal.ConfidentialClientApplication], call: str, arguments: tuple[object, ...]
) -> None:
    """Features that the authority does not support fail alike, in every call that sends an assertion."""
    plain, ours = (getattr(application, call)(*arguments) for application in applications)

    assert (plain and plain["error_codes"]) == (ours and ours["error_codes"])
