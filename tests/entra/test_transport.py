"""The session to the authority: what it trusts, and how it gets there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from keyvouch.connections import Deadline
from keyvouch.entra import transport
from keyvouch.entra.transport import Session
from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.tls import make_context


def discovery(authority: Authority) -> str:
    return f"{authority.authority}/v2.0/.well-known/openid-configuration"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_own_ca_wins(authority: Authority, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The authority's own CA is trusted, whatever the environment says."""
    monkeypatch.setenv(variable, "/etc/ssl/certs/ca-certificates.crt")
    with Session(authority.ca_file) as session:
        assert session.get(discovery(authority)).status_code == 200


def test_environment_ca_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a CA of its own it is the environment's."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_file)
    with Session() as session:
        assert session.get(discovery(authority)).status_code == 200


def test_default_ca_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any other it is the CAs that come with `requests`."""
    monkeypatch.setattr(transport, "DEFAULT_CA_BUNDLE_PATH", authority.ca_file)
    with Session() as session:
        assert session.get(discovery(authority)).status_code == 200


def test_unknown_ca_refused(authority: Authority) -> None:
    """TLS is always verified."""
    with Session() as session, pytest.raises(requests.exceptions.SSLError):
        session.get(discovery(authority))


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that writes down what it is asked, and refuses."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096).split(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("given", ["option", "environment"])
def test_proxy_asked(proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """A proxy resolves the authority's name: by the option, else by HTTPS_PROXY."""
    address, asked = proxy
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    if given == "environment":
        monkeypatch.setenv("HTTPS_PROXY", address)
    with (
        Session(proxy=address if given == "option" else None) as session,
        pytest.raises(requests.exceptions.ProxyError),
    ):
        session.get("https://authority.only-the-proxy-knows.test/")

    assert asked[0].startswith(b"CONNECT authority.only-the-proxy-knows.test:443 ")


def test_loopback_goes_direct(
    authority: Authority, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy is asked for this machine itself."""
    address, asked = proxy
    monkeypatch.setenv("HTTPS_PROXY", address)
    with Session(authority.ca_file, proxy=address) as session:
        session.get(discovery(authority))

    assert asked == []


def test_redirect_not_followed(authority: Authority) -> None:
    """A request with a credential follows no redirect."""
    authority.answer_next(307, b"", {"Location": f"{authority.url}/elsewhere"})
    with Session(authority.ca_file) as session:
        answer = session.post(f"{authority.authority}/oauth2/v2.0/token", data={"client_assertion": "x"})

    assert answer.status_code == 307


def test_slow_body_ends_with_the_time(tmp_path: Path) -> None:
    """A body of a known length, an octet now and then: each comes soon enough, and yet it is given up in time."""
    context, ca_file = make_context(tmp_path)
    sent: list[int] = []
    gone = threading.Event()

    def drip(server: socket.socket) -> None:
        connection = context.wrap_socket(server.accept()[0], server_side=True)
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not gone.wait(0.02):
                sent.append(connection.send(b"x"))

    with socket.create_server(("127.0.0.1", 0)) as server, Session(str(ca_file)) as session:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        with session.within(Deadline(0.3)), pytest.raises(requests.exceptions.ReadTimeout):
            session.get(f"https://localhost:{server.getsockname()[1]}/")
        gone.set()
        thread.join()
    assert 0 < len(sent) < 1000


def test_request_is_not_sent_again_when_tls_fails_behind_it(tmp_path: Path) -> None:
    """The server may have heard it, and takes no assertion twice."""
    context, ca_file = make_context(tmp_path)
    heard: list[bytes] = []

    def spoil(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw = server.accept()[0]
                connection = context.wrap_socket(raw, server_side=True)
                heard.append(connection.recv(4096))
                with socket.socket(fileno=connection.detach()) as bare:
                    bare.sendall(b"HTTP/1.1 200 OK\r\n\r\n")  # no TLS any more

    with socket.create_server(("127.0.0.1", 0)) as server, Session(str(ca_file)) as session:
        thread = threading.Thread(target=spoil, args=(server,))
        thread.start()
        with pytest.raises(requests.exceptions.ConnectionError):
            session.post(f"https://localhost:{server.getsockname()[1]}/", data={"client_assertion": "x"})
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(heard) == 1
