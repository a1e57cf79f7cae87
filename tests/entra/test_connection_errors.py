"""Errors of discovery, TLS, the proxy and MSAL's options, as users see them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyvouchError,
)
from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.server import Response
from signing_in import SCOPE, Key


def make_client(authority: Authority, uri: str, **options: Any) -> ConfidentialClient:
    return ConfidentialClient("id", [uri], authority=authority.authority, instance_discovery=False, **options)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, "<html></html>", AuthorityUnavailable),
        (200, "", AuthorityUnavailable),
        (200, "[]", AuthorityUnavailable),
        (200, "{}", AuthorityUnavailable),
        (200, '{"token_endpoint": 5, "authorization_endpoint": []}', AuthorityUnavailable),
        (401, "", AuthorityUnavailable),
        (403, "no", AuthorityUnavailable),
        (429, "", AuthorityUnavailable),
        (503, "", AuthorityUnavailable),
        (400, "{}", AuthorityRefused),
        (404, "", AuthorityRefused),
    ],
)
def test_unexpected_discovery_response(
    authority: Authority,
    preferred: Key,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: str,
    error: type[KeyvouchError],
) -> None:
    """Only an unknown tenant is a refusal; anything else instead of endpoints is an unusable response."""
    response = Response(status, body.encode(), {})
    monkeypatch.setattr(Authority, "_respond", lambda *_: response)
    with pytest.raises(error):
        make_client(authority, preferred.uri, ca_file=authority.ca_file)


def test_connection_error_contains_the_system_reason(preferred: Key) -> None:
    """The error contains the system's reason, not the exception's name."""
    with pytest.raises(AuthorityUnavailable, match="cannot be reached: Connection refused"):
        ConfidentialClient("id", [preferred.uri], authority="https://localhost:9/t", instance_discovery=False)


def test_certificate_of_another_host(authority: Authority, preferred: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a certificate of another host does not suggest ca-file."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: resolve("localhost", *rest))
    with pytest.raises(ConfigurationError, match="not trusted") as caught:
        ConfidentialClient(
            "id",
            [preferred.uri],
            authority=authority.authority.replace("localhost", "login.example"),
            ca_file=authority.ca_file,
            instance_discovery=False,
        )
    assert "another server" in caught.value.hint


def test_server_without_tls(preferred: Key) -> None:
    """A port that does not speak TLS is reported as such."""
    with socket.create_server(("localhost", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(9000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ConfigurationError, match="The TLS connection to https://localhost"):
            ConfidentialClient(
                "id",
                [preferred.uri],
                authority=f"https://localhost:{server.getsockname()[1]}/t",
                instance_discovery=False,
            )


def test_no_certificates_in_ca_file(authority: Authority, preferred: Key, tmp_path: Path) -> None:
    """A ca-file in another format is reported."""
    (tmp_path / "ca.pem").write_text("no certificates")
    with pytest.raises(ConfigurationError, match="ca-file") as caught:
        make_client(authority, preferred.uri, ca_file=str(tmp_path / "ca.pem"))
    assert "PEM" in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://proxy:1", "http://[::1", "no address"])
def test_invalid_proxy(authority: Authority, preferred: Key, proxy: str) -> None:
    """An invalid proxy address is a configuration error; the tenant is not blamed."""
    with pytest.raises((ConfigurationError, AuthorityUnavailable)) as caught:
        ConfidentialClient(
            "id",
            [preferred.uri],
            authority="https://login.example/t",
            instance_discovery=False,
            proxy=proxy,
        )
    assert "proxy" in str(caught.value).lower()


def test_unknown_option_raises_type_error(authority: Authority, preferred: Key) -> None:
    """An option that MSAL does not have is not a failure of the authority."""
    with pytest.raises(TypeError, match="bogus"):
        ConfidentialClient("id", [preferred.uri], authority=authority.authority, bogus=1)


def test_claims_that_msal_rejects(authority: Authority, preferred: Key) -> None:
    """Claims that MSAL rejects before sending anything are the caller's mistake."""
    client = ConfidentialClient(
        "id",
        [preferred.uri],
        authority=authority.authority,
        ca_file=authority.ca_file,
        instance_discovery=False,
        client_capabilities=["cp1"],
    )
    with client, pytest.raises(ConfigurationError, match="MSAL rejected"):
        client.access_token([SCOPE], claims_challenge="no JSON")
    assert authority.exchanges == []
