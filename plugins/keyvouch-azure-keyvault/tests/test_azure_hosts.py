"""Where requests may go: no token or secret is sent to another host that a response names."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import urlsplit

import pytest
from azure.core.rest import HttpRequest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import assert_raises, connected_store, parse_uri
from keyvouch.errors import KeyvouchError, StoreUnavailable
from keyvouch.testing.authority.tls import make_context
from keyvouch_azure_keyvault.testing import Body
from keyvouch_azure_keyvault.transports import NoResponse, PoolTransport, VaultTransport
from servers.drips import DripServer, dripping, json_response


@pytest.fixture
def uri(vault: Vault) -> str:
    if "hosts" not in vault.keys:
        vault.make("hosts")
    return vault.uri("certificate=hosts")


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://127.0.0.1:{port}",
        "https://localhost:1",
        "https://user@localhost:{port}",
        "http://localhost:{port}",
        "https://localhost:{port}.",
        "https://localhost:{port}@127.0.0.1:{port}",
        "//127.0.0.1:{port}",
    ],
)
@pytest.mark.parametrize("permission", ["keys/list", "certificates/list"])
def test_next_page_on_another_host_is_not_requested(vault: Vault, uri: str, permission: str, elsewhere: str) -> None:
    """A listing's next page with another scheme, host or port gets neither a request nor the token."""
    page = elsewhere.format(port=urlsplit(vault.url).port) + "/keys/x/versions?api-version=7.4&$skiptoken=a"
    which = uri if permission == "certificates/list" else uri.replace("certificate=", "key=")
    with connected_store(uri) as store:
        before = len(vault.calls)
        vault.fail(permission, Body(json.dumps({"value": [], "nextLink": page}).encode()))
        assert_raises(StoreUnavailable, lambda: store.open(parse_uri(which), timeout=5))
        assert len(vault.calls) == before + 1


def test_hosts_are_compared() -> None:
    """Key Vault writes `:443` into the URLs of pages; a name with only the same prefix is another host."""
    sent: list[str] = []

    def send(request: HttpRequest) -> SimpleNamespace:
        sent.append(request.url)
        return SimpleNamespace(status_code=204)

    pools = SimpleNamespace(send=send)
    transport = VaultTransport(cast(PoolTransport, pools), "https://app.vault.azure.net")
    good = ["https://app.vault.azure.net/keys", "https://app.vault.azure.net:443/keys", "https://APP.vault.azure.net/"]
    for url in (
        *good,
        "https://app.vault.azure.net.example/",
        "https://app.vault.azure.net@example/",
        "https://app.vault.azure.net:444/",
        "https://other.vault.azure.net/",
        "https://app.vault.azure.net:x/",
        "http://app.vault.azure.net/",
    ):
        with contextlib.suppress(NoResponse):
            transport.send(HttpRequest("GET", url))
    assert sent == good


def test_endless_listing_is_abandoned(vault: Vault, uri: str) -> None:
    """A listing in which each page names itself as the next is abandoned before the timeout."""
    page = f"{vault.url}/certificates/hosts/versions?api-version=7.4"
    with connected_store(uri) as store:
        body = json.dumps({"value": [{"id": f"{vault.url}/certificates/hosts/{'0' * 32}"}] * 20_000, "nextLink": page})
        vault.fail("certificates/list", *[Body(body.encode())] * 30)
        try:
            error = assert_raises(StoreUnavailable, lambda: store.open(parse_uri(uri), timeout=120))
        finally:
            vault._faults.clear()
    assert "100,000" in error.message


TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"


def _document(authority: DripServer, **changed: object) -> bytes:
    base = f"https://localhost:{authority.port}/{TENANT}"
    document = {
        "issuer": f"{base}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        **changed,
    }
    return json_response(document)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("auth", ["secret", "certificate"])
def test_credentials_are_sent_only_to_the_authoritys_host(
    vault: Vault, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, auth: str
) -> None:
    """If a discovery document names a token endpoint on another host, or over http, no credentials are sent there."""
    context, ca_file = make_context(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(ca_file.read_bytes() + Path(vault.ca_file).read_bytes())
    if auth == "secret":
        monkeypatch.delenv("AZURE_CLIENT_CERTIFICATE_PATH")
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "marker-of-the-secret")
    with (
        dripping("silence", context if scheme == "https" else None) as thief,
        dripping("silence", context) as authority,
    ):
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://localhost:{authority.port}")
        authority.responses += [_document(authority, token_endpoint=f"{scheme}://127.0.0.1:{thief.port}/token")] * 2
        with pytest.raises(KeyvouchError) as caught:
            keyvouch.open_signer(uri.replace(vault.ca_file, str(both)), timeout=4)
        assert authority.asked
        assert not thief.asked
    if scheme == "https":
        assert type(caught.value) is StoreUnavailable
        assert "another host" in caught.value.message
