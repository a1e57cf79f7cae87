"""The session to the authority: what it trusts, and how it is routed."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from keyvouch._core.retries import Deadline
from keyvouch.entra.transport import Session
from keyvouch.errors import ConfigurationError
from keyvouch.secrets import Secret
from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.tls import make_context
from traces import traces


def discovery(authority: Authority) -> str:
    return f"{authority.authority}/v2.0/.well-known/openid-configuration"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_given_ca_is_preferred(authority: Authority, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The authority's own CA is trusted, whatever the environment says."""
    monkeypatch.setenv(variable, "/etc/ssl/certs/ca-certificates.crt")
    with Session(authority.ca_file) as session:
        assert session.get(discovery(authority)).status_code == 200


def test_environment_ca_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its own CA, the environment's is trusted."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_file)
    with Session() as session:
        assert session.get(discovery(authority)).status_code == 200


def test_default_ca_used(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the system's CAs are trusted, as for stores."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca_file)
    with Session() as session:
        assert session.get(discovery(authority)).status_code == 200


def test_unknown_ca_refused(authority: Authority) -> None:
    """An unknown CA is refused: TLS is always verified."""
    with Session() as session, pytest.raises(requests.exceptions.SSLError):
        session.get(discovery(authority))


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that records requests and refuses them."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(4096).split(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("given", ["option", "environment"])
def test_proxy_is_used(proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """A proxy from the option, or else from HTTPS_PROXY, resolves the authority's name."""
    address, seen = proxy
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    if given == "environment":
        monkeypatch.setenv("HTTPS_PROXY", address)
    with (
        Session(proxy=address if given == "option" else None) as session,
        pytest.raises(requests.exceptions.ProxyError),
    ):
        session.get("https://authority.only-the-proxy-knows.test/")

    assert seen[0].startswith(b"CONNECT authority.only-the-proxy-knows.test:443 ")


def proxy_authorization(seen: list[bytes]) -> list[bytes]:
    return [
        line.partition(b": ")[2] for head in seen for line in head.split(b"\r\n") if b"authorization" in line.lower()
    ]


@pytest.fixture
def strict_proxy() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that requires other credentials, and keeps the heads of the requests it got."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    seen.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1], seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("given", ["option", "environment", "reference"])
def test_proxy_password_is_sent_and_not_shown(
    strict_proxy: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """The proxy gets the password, which is in no error, cause or frame."""
    port, seen = strict_proxy
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    address = f"http://me:s-cret@127.0.0.1:{port}"
    if given == "environment":
        monkeypatch.setenv("HTTPS_PROXY", address)
    proxy = {"option": address, "reference": f"http://127.0.0.1:{port}"}.get(given)
    credentials = (lambda: Secret("me:s-cret")) if given == "reference" else None
    with (
        Session(proxy=proxy, proxy_credentials=credentials) as session,
        pytest.raises(requests.exceptions.ProxyError) as caught,
    ):
        session.get("https://authority.test/")
    assert proxy_authorization(seen) == [b"Basic " + base64.b64encode(b"me:s-cret")] * len(seen)
    assert seen
    assert all("s-cret" not in shown for shown in traces(caught.value))


def test_new_proxy_password_is_used(strict_proxy: tuple[int, list[bytes]]) -> None:
    """A reference is resolved for each request, so that a new password is found."""
    port, seen = strict_proxy
    passwords = iter(["me:old", "me:new"])
    with Session(proxy=f"http://127.0.0.1:{port}", proxy_credentials=lambda: Secret(next(passwords))) as session:
        for _ in range(2):
            with pytest.raises(requests.exceptions.ProxyError):
                session.get("https://authority.test/")
    sent = [base64.b64decode(each.removeprefix(b"Basic ")) for each in proxy_authorization(seen)]
    assert (sent[0], sent[-1]) == (b"me:old", b"me:new")


def test_reference_is_followed_only_for_a_proxy(authority: Authority) -> None:
    """Without a proxy, as on loopback, its credentials are not resolved."""
    with Session(authority.ca_file, "http://proxy.test", lambda: pytest.fail("the reference was resolved")) as session:
        assert session.get(discovery(authority)).ok


@pytest.mark.parametrize("address", ["ftp://me:s-cret@proxy", "http://me:s-cret@[proxy", "http://me:s-cret@proxy:x"])
def test_invalid_proxy_is_not_quoted(address: str) -> None:
    """The error for an invalid proxy address does not contain the address."""
    with Session(proxy=address) as session, pytest.raises(ConfigurationError, match="Invalid proxy") as caught:
        session.get("https://authority.test/")
    assert all("s-cret" not in shown for shown in traces(caught.value))


def test_loopback_bypasses_the_proxy(
    authority: Authority, proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to the machine itself do not use a proxy."""
    address, seen = proxy
    monkeypatch.setenv("HTTPS_PROXY", address)
    with Session(authority.ca_file, proxy=address) as session:
        session.get(discovery(authority))

    assert seen == []


def test_redirect_not_followed(authority: Authority) -> None:
    """A request with a credential does not follow redirects."""
    authority.answer_next(307, b"", {"Location": f"{authority.url}/elsewhere"})
    with Session(authority.ca_file) as session:
        answer = session.post(f"{authority.authority}/oauth2/v2.0/token", data={"client_assertion": "x"})

    assert answer.status_code == 307


def test_slow_body_times_out(tmp_path: Path) -> None:
    """A body of known length that drips is abandoned in time, although each byte comes soon enough."""
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


def test_request_is_not_repeated_after_a_tls_failure(tmp_path: Path) -> None:
    """A request is not repeated: the server may have received it, and accepts no assertion twice."""
    context, ca_file = make_context(tmp_path)
    heard: list[bytes] = []

    def spoil(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw = server.accept()[0]
                connection = context.wrap_socket(raw, server_side=True)
                heard.append(connection.recv(4096))
                with socket.socket(fileno=connection.detach()) as bare:
                    bare.sendall(b"HTTP/1.1 200 OK\r\n\r\n")  # no longer TLS

    with socket.create_server(("127.0.0.1", 0)) as server, Session(str(ca_file)) as session:
        thread = threading.Thread(target=spoil, args=(server,))
        thread.start()
        with pytest.raises(requests.exceptions.ConnectionError):
            session.post(f"https://localhost:{server.getsockname()[1]}/", data={"client_assertion": "x"})
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(heard) == 1
