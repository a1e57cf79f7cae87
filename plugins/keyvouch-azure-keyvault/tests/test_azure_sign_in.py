"""How the store signs in: azure-identity's credentials, with the endpoints that they use."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msal
import pytest
import requests

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import RESOURCE, Vault
from bare_azure_store import assert_raises
from keyvouch.assertion import ClientAssertion
from keyvouch.errors import ConfigurationError, SecretIncorrect, SecretRequired
from keyvouch.testing.throwaway import throwaway_signer

SCOPE = f"{RESOURCE}/.default"
HEADER = "header-of-the-endpoint"


class Endpoint(ThreadingHTTPServer):
    """App Service's endpoint for managed identities, which returns a token to clients that send the header."""

    daemon_threads = True

    def __init__(self, vault: Vault) -> None:
        self.queries: list[dict[str, list[str]]] = []
        self.status = 200
        self.body: bytes | None = None
        """Returned instead of a token."""
        with throwaway_signer() as signer:
            app = vault.authority.register(certificates=[signer.chain[0]])
            session = requests.Session()
            session.trust_env, session.verify = False, vault.authority.ca_file
            client = msal.ConfidentialClientApplication(
                app.client_id,
                authority=vault.authority.authority,
                client_credential={"client_assertion": ClientAssertion(signer)},
                http_client=session,
                instance_discovery=False,
            )
            self.token = client.acquire_token_for_client([SCOPE])["access_token"]
            session.close()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        self.server.queries.append(query := parse_qs(urlsplit(self.path).query))
        good = self.headers.get("X-IDENTITY-HEADER") == HEADER and query.get("resource") == [RESOURCE]
        status = self.server.status if good else 401
        body: dict[str, Any] = {"statusCode": status, "message": "No identity is assigned."}
        if status == 200:
            body = {
                "access_token": self.server.token,
                "expires_on": "4102444800",
                "resource": RESOURCE,
                "token_type": "Bearer",
                "client_id": "id",
            }
        data = json.dumps(body).encode() if self.server.body is None else self.server.body
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Write nothing."""


@pytest.fixture
def endpoint(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    server = Endpoint(vault)
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{server.server_port}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", HEADER)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def uri(vault: Vault) -> str:
    if "logins" not in vault.keys:
        vault.make("logins", "P-256")
    return vault.uri("certificate=logins")


def signs(uri: str) -> None:
    with keyvouch.open_signer(uri, timeout=10) as signer:
        assert signer.sign(b"x", "ES256")


def test_managed_identity_opens_the_vault(endpoint: Endpoint, uri: str) -> None:
    """The machine's own identity opens the vault, and so does a user-assigned one named by client-id=."""
    managed = uri.replace("auth=environment", "auth=managed-identity")
    signs(managed)
    assert "client_id" not in endpoint.queries[-1]
    signs(f"{managed}&client-id=user-assigned")
    assert endpoint.queries[-1]["client_id"] == ["user-assigned"]


def test_missing_managed_identity(endpoint: Endpoint, uri: str) -> None:
    """If the endpoint has no identity, the hint says what to assign."""
    endpoint.status = 400
    managed = uri.replace("auth=environment", "auth=managed-identity")
    with pytest.raises((SecretIncorrect, SecretRequired)) as caught:
        keyvouch.open_signer(managed, timeout=10)
    assert "Assign an identity" in caught.value.hint
    assert HEADER not in str(caught.value)


def test_default_uses_what_is_available(endpoint: Endpoint, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DefaultAzureCredential uses the environment's login first, then the managed identity."""
    default = uri.replace("auth=environment", "auth=default")
    signs(default)
    assert not endpoint.queries
    monkeypatch.delenv("AZURE_CLIENT_CERTIFICATE_PATH")
    signs(default)
    assert endpoint.queries


def test_workload_identity_opens_the_vault(
    vault: Vault,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A federated token from a file is the assertion; here it is one that the development authority accepts."""
    with throwaway_signer() as signer:
        app = vault.authority.register(certificates=[signer.chain[0]])
        endpoint = f"{vault.authority.authority}/oauth2/v2.0/token"
        file = tmp_path / "token"
        file.write_text(ClientAssertion(signer)({"client_id": app.client_id, "token_endpoint": endpoint}))
    workload = uri.replace("auth=environment", "auth=workload")
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE", raising=False)
    assert "azure.workload.identity" in assert_raises(SecretRequired, lambda: keyvouch.open_signer(workload)).hint
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(file))
    signs(f"{workload}&client-id={app.client_id}")
    claims = vault.authority.exchanges[-1].claims
    assert claims is not None
    assert claims["iss"] == app.client_id


def test_missing_cli(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `az login`, the hint is that command; without the Azure CLI, it is to install that first."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    cli = uri.replace("auth=environment", "auth=cli")
    error = assert_raises(SecretRequired, lambda: keyvouch.open_signer(cli, timeout=10))
    assert error.hint == "Install the Azure CLI, then run: az login"
    (tmp_path / "az").write_text("#!/bin/sh\necho Please run: az login >&2; exit 1\n")
    (tmp_path / "az").chmod(0o700)
    assert assert_raises(SecretRequired, lambda: keyvouch.open_signer(cli, timeout=10)).hint == "Run: az login"


def test_cli_opens_the_vault(endpoint: Endpoint, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that `az account get-access-token` prints is used."""
    az = tmp_path / "az"
    token = {"accessToken": endpoint.token, "expiresOn": "2100-01-01 00:00:00.000000", "expires_on": 4102444800}
    az.write_text(f"#!/bin/sh\nprintf '%s' '{json.dumps(token)}'\n")
    az.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    signs(uri.replace("auth=environment", "auth=cli"))


@pytest.mark.parametrize("auth", ["auth=profile", "auth=cli&profile=nightly", "auth=secret"])
def test_invalid_auth(uri: str, auth: str) -> None:
    """An unknown method, or a profile without its method, is reported before anything is sent."""
    assert_raises(ConfigurationError, lambda: keyvouch.open_signer(uri.replace("auth=environment", auth)))
