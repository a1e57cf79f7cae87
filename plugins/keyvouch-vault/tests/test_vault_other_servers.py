"""Responses from something else at the server's address, and the server's own about what does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import keyvouch
from fake_vault import FakeVault, fake_vault
from keyvouch.errors import KeyNotFound, KeyUnusable, KeyvouchError, StoreUnavailable
from keyvouch.testing.authority.tls import make_context

TOKEN, SECRET_ID = "s.CUFTHh9PHmD1gs4dnSFn3dqj", "e0a4c2f8-5f4f-4a83-9d6e-6f0c6c1f4b7a"
PAGE = b"<html><head><title>Not here</title></head><body><h1>No such route</h1></body></html>"


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeVault]:
    monkeypatch.setenv("VAULT_TEST_TOKEN", TOKEN)
    monkeypatch.setenv("SECRET_ID", SECRET_ID)
    _, ca_file = make_context(tmp_path)
    with fake_vault(rsa.generate_private_key(65537, 2048)) as server:
        server.ca_file = str(ca_file)
        yield server


def error_on_signing(vault: FakeVault, login: str = "auth=token&token=env:VAULT_TEST_TOKEN") -> KeyvouchError:
    uri = f"vault:address={vault.address};key=app?{login}&ca-file={vault.ca_file}"
    with pytest.raises(KeyvouchError) as caught, keyvouch.open_signer(uri) as signer:
        signer.sign(b"message", "PS256", timeout=1)
    return caught.value


@pytest.mark.parametrize("endpoint", ["lookup-self", "keys/app", "sign"])
@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        ("404 Not Found", PAGE, "HTTP status 404 Not Found: No such route"),
        ("404 Not Found", b"default backend - 404", "HTTP status 404 Not Found: default backend - 404"),
        ("404 Not Found", b'{"message": "no Route matched"}', "HTTP status 404 Not Found: no Route matched"),
        ("404 Not Found", b"", "HTTP status 404 Not Found"),
        ("403 Forbidden", PAGE, "HTTP status 403 Forbidden: No such route"),
        ("502 Bad Gateway", b"upstream is down", "HTTP status 502 Bad Gateway: upstream is down"),
        ("200 OK", PAGE, "HTTP status 200 OK: No such route"),
    ],
)
def test_response_from_something_else(vault: FakeVault, endpoint: str, status: str, body: bytes, shown: str) -> None:
    """The error has the status and the text, and does not blame the key, the token or a policy."""
    vault.overrides[endpoint] = status, body
    error = error_on_signing(vault)
    assert isinstance(error, StoreUnavailable)
    assert error.message == f"The response from {vault.address} is not from Vault or OpenBao: {shown}."


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_secrets_in_a_response_are_not_shown(vault: FakeVault, status: str) -> None:
    """Neither what was sent, which a server may repeat, nor what a login returned is in the error."""
    vault.overrides["keys/app"] = status, f"<p>X-Vault-Token: {TOKEN}</p>".encode()
    assert TOKEN not in str(error_on_signing(vault))
    login = "auth=approle&role-id=app&secret-id=env:SECRET_ID"
    vault.overrides["login"] = status, f"<p>secret_id={SECRET_ID}</p>".encode()
    assert SECRET_ID not in str(error_on_signing(vault, login))
    vault.overrides["login"] = "200 OK", b'{"auth": {"client_token": "s.returned", '
    assert "s.returned" not in str(error_on_signing(vault, login))


@pytest.mark.parametrize(
    ("endpoint", "kind", "message"),
    [
        ("keys/app", KeyNotFound, "Key not found: app in transit."),
        ("sign", KeyUnusable, "The key app in transit, or this version of it, was deleted."),
        ("lookup-self", KeyNotFound, "Cannot log in: auth/token/lookup-self does not exist on this server."),
    ],
)
def test_what_does_not_exist_is_named(vault: FakeVault, endpoint: str, kind: type[KeyvouchError], message: str) -> None:
    """A 404 from the server gives no reason; the error names the path."""
    vault.overrides[endpoint] = "404 Not Found", b'{"errors":[]}'
    error = error_on_signing(vault)
    assert type(error) is kind
    assert error.message == message
    assert error.hint
