"""`ConfidentialClient` against the development authority."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msal
import pytest
import requests

import keyvouch
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.entra.transport import Session
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyNotFound,
    PluginMissing,
    SecretIncorrect,
)
from keyvouch.testing.authority import App, Authority
from signing_in import SCOPE, Key, make_key


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def app(authority: Authority, key: Key) -> App:
    """An app registration that knows the key."""
    return authority.register(certificates=[key.certificate])


def client_for(authority: Authority, app: App, *keys: Any, **options: Any) -> ConfidentialClient:
    return ConfidentialClient(
        app.client_id,
        keys,
        authority=authority.authority,
        instance_discovery=False,
        ca_file=authority.ca_file,
        **options,
    )


@pytest.fixture
def client(authority: Authority, app: App, key: Key) -> Iterator[ConfidentialClient]:
    with client_for(authority, app, key.uri) as client:
        yield client


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Start this many threads at the same moment, and return their results."""
    barrier = threading.Barrier(number)

    def begin(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(begin, range(number)))


def test_access_token_returned(client: ConfidentialClient, authority: Authority) -> None:
    """A token is returned, and one request was made."""
    assert client.access_token([SCOPE]).count(".") == 2
    assert [exchange.status for exchange in authority.exchanges] == [200]


def test_second_token_cached(client: ConfidentialClient, authority: Authority) -> None:
    """While the token is valid, no request is made."""
    assert client.access_token([SCOPE]) == client.access_token([SCOPE])
    assert len(authority.exchanges) == 1


def test_cold_threads_post_once(client: ConfidentialClient, authority: Authority) -> None:
    """32 threads that request the same token make one signature and one request."""
    assert len(set(in_threads(32, lambda _: client.access_token([SCOPE])))) == 1
    assert len(authority.exchanges) == 1


def test_cold_threads_post_once_a_scope(client: ConfidentialClient, authority: Authority) -> None:
    """32 threads over 8 scopes make eight requests."""
    tokens = in_threads(32, lambda index: client.access_token([f"api://resource-{index % 8}/.default"]))

    assert len(set(tokens)) == 8
    assert len(authority.exchanges) == 8


def test_threads_get_separate_results(client: ConfidentialClient) -> None:
    """Changes that one thread makes to its result are not seen by another."""
    results = in_threads(8, lambda _: client.acquire_token_for_client([SCOPE]))

    assert len({id(result) for result in results}) == 8


def test_inherited_result_as_msal(client: ConfidentialClient, authority: Authority, app: App, key: Key) -> None:
    """A success and a refusal have the same members as in unmodified MSAL."""
    plain = msal.ConfidentialClientApplication(
        app.client_id,
        authority=authority.authority,
        client_credential=client_credential(key.uri),
        instance_discovery=False,
        http_client=Session(authority.ca_file),
    )
    assert client.acquire_token_for_client([SCOPE]).keys() == plain.acquire_token_for_client([SCOPE]).keys()
    app.remove_certificate(key.certificate)
    other = ["api://other/.default"]

    assert client.acquire_token_for_client(other).keys() == plain.acquire_token_for_client(other).keys()


def test_plain_msal_follows_redirects(authority: Authority, app: App, key: Key) -> None:
    """As how-it-works says, MSAL's own connections follow a redirect with the assertion by default."""
    for redirects, followed in ((1, True), (0, False)):
        session = requests.Session()
        session.trust_env, session.verify, session.max_redirects = False, authority.ca_file, redirects
        plain = msal.ConfidentialClientApplication(
            app.client_id,
            authority=authority.authority,
            client_credential=client_credential(key.uri),
            instance_discovery=False,
            http_client=session,
        )
        authority.answer_next(307, b"", {"Location": plain.authority.token_endpoint})
        before = len(authority.exchanges)
        if followed:
            assert "access_token" in plain.acquire_token_for_client([SCOPE])
        else:
            with pytest.raises(requests.exceptions.TooManyRedirects):
                plain.acquire_token_for_client([SCOPE])
        assert len(authority.exchanges) == before + (2 if followed else 1)
        session.close()


def test_refusal_contains_advice(client: ConfidentialClient, app: App, key: Key) -> None:
    """For an unregistered certificate the error has the code, the thumbprint sent, and what to register."""
    app.remove_certificate(key.certificate)

    with pytest.raises(AuthorityRefused) as caught:
        client.access_token([SCOPE])

    assert caught.value.error_codes == (700027,)
    assert caught.value.thumbprint
    assert caught.value.thumbprint in caught.value.hint
    assert "keyvouch export --certificate" in caught.value.hint
    assert caught.value.correlation_id


def test_second_key_is_used_after_a_refusal(authority: Authority, app: App, key: Key, tmp_path: Path) -> None:
    """After the authority refuses a key the next one is used, and this is remembered."""
    unregistered = make_key(tmp_path, "unregistered.pfx")
    with client_for(authority, app, unregistered.uri, key.uri) as client:
        client.access_token([SCOPE])
        client.access_token(["api://other/.default"])

    assert [exchange.status for exchange in authority.exchanges] == [401, 200, 200]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("pfx:/nonexistent/app.pfx", "no such file"),
        ("pfx:{folder}/app.pfx?password=env:WRONG", "wrong password"),
        ("pfx:{folder}/app.pfx?password=env:UNSET", "no password"),
    ],
)
def test_second_key_is_used_after_a_store_error(
    authority: Authority, app: App, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    """If a store fails, the next key is used."""
    monkeypatch.setenv("WRONG", "not the password")
    with client_for(authority, app, uri.format(folder=tmp_path), key.uri) as client:
        assert client.access_token([SCOPE]), reason


def test_last_store_error_raised(authority: Authority, app: App, tmp_path: Path) -> None:
    """If every store failed, the last one's error is raised, by inherited calls too."""
    keys = ("pfx:/nonexistent/1.pfx", f"pfx:{tmp_path}/2.pfx")
    with client_for(authority, app, *keys) as client, pytest.raises(KeyNotFound, match="2.pfx"):
        client.acquire_token_for_client([SCOPE])
    assert authority.exchanges == []


def test_wrong_tenant_not_retried(authority: Authority, key: Key) -> None:
    """A failure that is not the key's fault is not retried with the next key."""
    app = authority.register(certificates=[key.certificate])
    app.make_public()
    with client_for(authority, app, key.uri, key.uri) as client, pytest.raises(AuthorityRefused):
        client.access_token([SCOPE])

    assert len(authority.exchanges) == 1


def test_refused_key_reloaded(authority: Authority, tmp_path: Path) -> None:
    """A key that was replaced in the meantime is reloaded after its refusal, and signs in within the same call."""
    old = make_key(tmp_path)
    app = authority.register(certificates=[old.certificate])
    with keyvouch.open_signer(old.uri) as signer, client_for(authority, app, signer) as client:
        signer.sign(b"", "PS256")
        (tmp_path / "app.pfx").unlink()
        new = make_key(tmp_path)
        app.remove_certificate(old.certificate)
        app.add_certificate(new.certificate)

        assert client.access_token([SCOPE])


def test_claims_challenge_is_forwarded(client: ConfidentialClient, authority: Authority) -> None:
    """A claims challenge is forwarded, and bypasses the cache."""
    client.access_token([SCOPE])
    client.access_token([SCOPE], claims_challenge='{"access_token": {"nbf": {"essential": true}}}')

    assert "nbf" in authority.exchanges[-1].form["claims"]


def test_async_call_does_not_block_the_event_loop(client: ConfidentialClient) -> None:
    """The event loop keeps running while a token is requested."""

    async def main() -> tuple[str, int]:
        task = asyncio.ensure_future(client.access_token_async([SCOPE]))
        iterations = 0
        while not task.done():
            await asyncio.sleep(0)
            iterations += 1
        return task.result(), iterations

    token, iterations = asyncio.run(main())
    assert token
    assert iterations > 1


def test_own_signer_stays_open(authority: Authority, app: App, key: Key) -> None:
    """A client closes the signers that it opened, and no others."""
    with keyvouch.open_signer(key.uri) as signer:
        with client_for(authority, app, signer) as client:
            client.access_token([SCOPE])
        assert signer.sign(b"", "PS256")


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (503, b"", {}),
        (500, b"<html>oops</html>", {"Content-Type": "text/html"}),
        (429, b"", {"Retry-After": "7"}),
        (403, b"", {}),
        (200, b"<html>a captive portal</html>", {"Content-Type": "text/html"}),
    ],
)
def test_unexpected_response_is_unavailable(
    client: ConfidentialClient, authority: Authority, status: int, body: bytes, headers: dict[str, str]
) -> None:
    """5xx, 429 or a body that is not JSON: the authority is unavailable, which may be temporary."""
    authority.answer_next(status, body, headers)

    with pytest.raises(AuthorityUnavailable) as caught:
        client.access_token([SCOPE])

    assert caught.value.transient


def test_unreachable_authority(key: Key) -> None:
    """An authority where nothing listens is reported as unavailable."""
    with pytest.raises(AuthorityUnavailable, match="cannot be reached"):
        ConfidentialClient("id", [key.uri], authority="https://localhost:9/tenant", instance_discovery=False)


def test_unknown_tenant(authority: Authority, key: Key) -> None:
    """If the authority does not know the tenant, the error says so."""
    with pytest.raises(AuthorityRefused, match="the tenant does not exist"):
        ConfidentialClient(
            "id",
            [key.uri],
            authority=f"{authority.url}/nowhere.example",
            instance_discovery=False,
            ca_file=authority.ca_file,
        )


def test_untrusted_certificate(authority: Authority, key: Key) -> None:
    """An untrusted certificate is an error: TLS is always verified."""
    with pytest.raises(ConfigurationError, match="not trusted") as caught:
        ConfidentialClient("id", [key.uri], authority=authority.authority, instance_discovery=False)

    assert "ca-file" in caught.value.hint


def test_missing_ca_file(authority: Authority, key: Key) -> None:
    """A missing ca-file is named."""
    with pytest.raises(ConfigurationError, match=r"/nonexistent/ca\.pem"):
        ConfidentialClient(
            "id", [key.uri], authority=authority.authority, instance_discovery=False, ca_file="/nonexistent/ca.pem"
        )


def test_invalid_standby_uri_is_refused_at_once(authority: Authority, app: App, key: Key) -> None:
    """A URI that can never open is refused when the client is created."""
    with pytest.raises(PluginMissing):
        client_for(authority, app, key.uri, "yubikey:slot=9c")


@pytest.mark.parametrize("scopes", [None, [], SCOPE])
def test_scopes_are_required(client: ConfidentialClient, scopes: Any) -> None:
    """Scopes are required, and a single string is not a list: its letters would be requested."""
    with pytest.raises(ConfigurationError, match="scopes"):
        client.access_token(scopes)


def test_single_key_error_raised(authority: Authority, app: App, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only key's store error passes through MSAL unchanged."""
    monkeypatch.setenv("APP_PASSWORD", "wrong")
    with client_for(authority, app, key.uri) as client, pytest.raises(SecretIncorrect):
        client.access_token([SCOPE])
