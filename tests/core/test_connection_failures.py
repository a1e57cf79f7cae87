"""A request without a usable response: both HTTP stacks report the same cause, and name the proxy."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import certifi
import pytest
import requests

from keyvouch._system import tls
from keyvouch._system.response_text import describe_response
from keyvouch.entra.msal_errors import translate_network_error
from keyvouch.entra.transport import Session
from keyvouch.errors import ConfigurationError, KeyvouchError
from keyvouch.https import Limits, Pools
from keyvouch.testing.authority.tls import make_context
from traces import traces

Handler = Callable[[socket.socket], None]
TARGET = "https://vault.test"
TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy", *TRUST_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    context, ca_file = make_context(tmp_path_factory.mktemp("tls"))
    return context, str(ca_file)


@contextlib.contextmanager
def serving(handle: Handler) -> Iterator[int]:
    """Handle each connection in a thread of its own; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def handle_one(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            handle(connection)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=handle_one, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def saying(data: bytes) -> Handler:
    def handle(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return handle


def with_tls(context: ssl.SSLContext, handle: Handler) -> Handler:
    def encrypted(connection: socket.socket) -> None:
        with connection.dup() as kept:
            try:
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    handle(wrapped)
            except ssl.SSLError:
                while kept.recv(65536):  # a connection closed with unread data is reset, and its alert can be lost
                    pass
                raise

    return encrypted


def after_tunnel(handle: Handler) -> Handler:
    def tunnelled(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        handle(connection)

    return tunnelled


def alert(number: int) -> Handler:
    return saying(bytes([0x15, 3, 3, 0, 2, 2, number]))


def failures(url: str, ca_file: str, proxy: str | None = None) -> list[KeyvouchError]:
    """Send a request through both stacks, without any warning, and return both errors."""
    found: list[KeyvouchError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.closing(Pools(Limits(), ca_file=ca_file, proxy=proxy)) as pools:
            try:
                pools.request("GET", f"{url}/", None, {})
            except KeyvouchError as error:
                found.append(error)
        with Session(ca_file, proxy) as session:
            try:
                session.get(f"{url}/")
            except requests.exceptions.RequestException as error:
                translated = translate_network_error(error, url)
                assert translated is not None
                found.append(translated)
    assert len(found) == 2
    assert all(each.hint for each in found)
    return found


@pytest.mark.parametrize(
    ("number", "name", "hint"),
    [
        (40, "handshake failure", "client certificate"),
        (42, "bad certificate", "client certificate"),
        (48, "unknown ca", "client certificate"),
        (49, "access denied", "client certificate"),
        (70, "protocol version", "TLS versions"),
        (71, "insufficient security", "TLS versions"),
        (80, "internal error", "log"),
        (112, "unrecognized name", "host name"),
        (116, "certificate required", "client certificate"),
        (120, "no application protocol", "log"),
    ],
)
def test_tls_alert(trusted: tuple[ssl.SSLContext, str], number: int, name: str, hint: str) -> None:
    """An alert is reported by its name in RFC 8446; the hint says what it usually means."""
    with serving(alert(number)) as port:
        for error in failures(f"https://127.0.0.1:{port}", trusted[1]):
            assert f"the server sent the alert `{name}`" in error.message
            assert hint in error.hint


def test_client_certificate_required(tmp_path: Path) -> None:
    """In TLS 1.3 the alert arrives after the handshake, instead of the response."""
    context, ca_file = make_context(tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(with_tls(context, saying(b""))) as port:
        for error in failures(f"https://localhost:{port}", str(ca_file)):
            assert "certificate required" in error.message


@pytest.mark.parametrize(
    ("encrypted", "response", "message"),
    [
        (False, b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not use TLS on this port"),
        (False, b"SSH-2.0-OpenSSH\r\n", "does not use TLS on this port"),
        (False, b"", "closed the connection"),
        (True, b"", "closed the connection without a response"),
        (True, b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP: SSH-2.0-OpenSSH"),
        (True, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "before the end of its response"),
        (True, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "cannot be decompressed"),
    ],
)
def test_invalid_response(
    trusted: tuple[ssl.SSLContext, str], response: bytes, message: str, *, encrypted: bool
) -> None:
    """What the server did is reported, not the name of an exception."""
    handle = saying(response)
    with serving(with_tls(trusted[0], handle) if encrypted else handle) as port:
        for error in failures(f"https://localhost:{port}", trusted[1]):
            assert message in error.message


RESPONSE = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("response", "message", "hint"),
    [
        (RESPONSE % b"407 Proxy Authentication Required", "requires credentials (407 Proxy", "proxy-credentials"),
        (RESPONSE % b"403 Forbidden", "refused the connection (403 Forbidden)", "administrator"),
        (RESPONSE % b"502 Bad Gateway", "failed to connect to it (502 Bad Gateway)", "reach the server"),
        (RESPONSE % b"504 \x1b[2J", "failed to connect to it (504 [2J)", "reach the server"),
        (b"SSH-2.0-OpenSSH\r\n", "is not HTTP: SSH-2.0-OpenSSH", "HTTPS_PROXY"),
        (bytes([0x15, 3, 3, 0, 2, 2, 40]), "is not HTTP", "https://host:port"),
        (b"", "closed the connection", "HTTPS_PROXY"),
    ],
)
def test_proxy_failure(trusted: tuple[ssl.SSLContext, str], response: bytes, message: str, hint: str) -> None:
    """A proxy's failure names the proxy and says what it did, and the server is named as the one not reached."""
    with serving(saying(response)) as port:
        for error in failures(TARGET, trusted[1], f"http://127.0.0.1:{port}"):
            assert error.message.startswith(f"{TARGET} cannot be reached: the proxy http://127.0.0.1:{port} ")
            assert message in error.message
            assert hint in error.hint
            assert error.message.isprintable()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "proxy.invalid:3128"])
def test_unreachable_proxy(trusted: tuple[ssl.SSLContext, str], address: str) -> None:
    """An unreachable proxy is named, without the credentials in its address."""
    for error in failures(TARGET, trusted[1], f"http://me:s-cret@{address}"):
        assert f"the proxy http://{address} cannot be reached: " in error.message
        assert all("s-cret" not in shown for shown in traces(error))


def test_rejected_proxy_credentials(trusted: tuple[ssl.SSLContext, str]) -> None:
    """A 407 in spite of credentials means that they are wrong; they are not shown."""
    with serving(saying(RESPONSE % b"407 No")) as port:
        error = failures(TARGET, trusted[1], f"http://me:s-cret@127.0.0.1:{port}")[0]
    assert f"the proxy http://127.0.0.1:{port} rejected the credentials (407 No)" in error.message
    assert all("s-cret" not in shown for shown in traces(error))


def test_tls_of_the_proxy(trusted: tuple[ssl.SSLContext, str], tmp_path: Path) -> None:
    """Failures of TLS with an https:// proxy are the proxy's, not the server's."""
    with serving(saying(RESPONSE % b"400 Bad")) as port:
        for error in failures(TARGET, trusted[1], f"https://localhost:{port}"):
            assert f"the proxy https://localhost:{port} does not use TLS" in error.message
    with serving(alert(40)) as port:
        for error in failures(TARGET, trusted[1], f"https://localhost:{port}"):
            assert f"the proxy https://localhost:{port} failed the TLS handshake: alert `handshake" in error.message
    with serving(with_tls(make_context(tmp_path)[0], saying(b""))) as port:
        for error in failures(TARGET, trusted[1], f"https://localhost:{port}"):
            assert isinstance(error, ConfigurationError)
            assert f"certificate of the proxy https://localhost:{port} is not trusted" in error.message


def test_failure_behind_the_proxy(trusted: tuple[ssl.SSLContext, str], tmp_path: Path) -> None:
    """After the proxy has connected, the failure is the server's, and the error says which proxy was used."""
    intercepting = with_tls(make_context(tmp_path)[0], saying(b""))
    for handle, message in (
        (alert(40), "the server sent the alert"),
        (intercepting, f"The TLS certificate of {TARGET} is not trusted"),
    ):
        with serving(after_tunnel(handle)) as port:
            for error in failures(TARGET, trusted[1], f"http://127.0.0.1:{port}"):
                assert message in error.message
                assert f"through the proxy http://127.0.0.1:{port}." in error.message


def test_unrelated_error_is_not_the_reason(trusted: tuple[ssl.SSLContext, str]) -> None:
    """An error that the program was handling during the request is not reported as the reason."""
    try:
        os.stat("/no/such/file")  # noqa: PTH116 - any error with a system's reason
    except FileNotFoundError:
        for error in failures("https://localhost:9", trusted[1]):
            assert error.message == "https://localhost:9 cannot be reached: Connection refused."


def test_unknown_host_is_probably_a_typing_error(trusted: tuple[ssl.SSLContext, str]) -> None:
    """If a host name is not found, the hint begins with the name."""
    for error in failures("https://no-such-host.invalid", trusted[1]):
        assert "cannot be reached: its host name was not found (" in error.message
        assert error.hint.startswith("Check the host name in the address for a typing error, then DNS")


# What a response says


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"Not Found", ""),
        (b"no such route.\r\n", ": no such route"),
        (b"<html><head><title>404</title></head><body><h1>Gone</h1><script>x()</script></body></html>", ": Gone"),
        (b"<html><head><title>Only a title</title></head></html>", ": Only a title"),
        (
            b'{"error": "invalid_tenant", "error_description": "AADSTS90002: Tenant"}',
            ": invalid_tenant: AADSTS90002: Tenant",
        ),
        (b'{"error": {"code": "A", "message": "b"}}', ": A: b"),
        (b'{"errors": ["one", "two"]}', ": one; two"),
        (b'{"access_token": "secret"}', ""),
        (b"Bearer " + b"a" * 80, ": Bearer ..."),
        (b"\x1b[31mred\x07", ": [31mred"),
        (b"\x00\x01\x02", ""),
        (b"[" * 100_000, None),
        (b"<" * 100_000, None),
        (b"<html><!-- <p>hidden</p> --><p>Shown</p><!-- also hidden --> too</html>", ": Shown too"),
        (b"<script>" * 10_000, ""),
        (b"<!--" * 20_000, ""),
        (b"<title>" * 10_000, ""),
    ],
)
def test_text_of_a_response(body: bytes, text: str | None) -> None:
    """The text is on one line, printable, short, and without markup and tokens."""
    shown = describe_response(404, "Not Found", body)
    assert shown.startswith("HTTP status 404 Not Found")
    assert shown.isprintable()
    assert len(shown) < 400
    assert text is None or shown == f"HTTP status 404 Not Found{text}"


def test_body_of_a_refused_token_request(trusted: tuple[ssl.SSLContext, str]) -> None:
    """A page instead of the token endpoint's JSON is reported with its status and text."""
    page = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<h1>No such page</h1>"
    with serving(with_tls(trusted[0], saying(page))) as port, Session(trusted[1]) as session:
        with pytest.raises(requests.exceptions.RequestException) as caught:
            session.post(f"https://localhost:{port}/token", data={"scope": "s"})
        error = translate_network_error(caught.value, "https://login")
    assert error is not None
    assert "HTTP status 404 Not Found: No such page" in error.message


# Trust


def trusted_names(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> int:
    """Return the number of CA certificates in a context, if the system's are only those in `folder`."""
    paths = SimpleNamespace(cafile=None, capath=str(folder) if folder else None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
    return tls.client_context(None).cert_store_stats()["x509_ca"]


def packaged() -> int:
    return ssl.create_default_context(cafile=certifi.where()).cert_store_stats()["x509_ca"]


def test_certifi_if_the_system_has_no_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a container without ca-certificates, whose folder may exist, certifi's certificates are trusted."""
    assert trusted_names(monkeypatch, None) == packaged()
    assert trusted_names(monkeypatch, tmp_path) == packaged()
    (tmp_path / "0a1b2c3d.0").touch()
    assert trusted_names(monkeypatch, tmp_path) == 0


def test_certifi_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Windows fetches root certificates when its own programs need them, so certifi's are trusted as well."""
    (tmp_path / "0a1b2c3d.0").touch()
    monkeypatch.setattr("sys.platform", "win32")
    assert trusted_names(monkeypatch, tmp_path) == packaged()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_chosen_certificates_are_the_only_ones(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """OpenSSL's variables are the user's choice, even if they name nothing: certifi's are not added."""
    monkeypatch.setenv(variable, "/nowhere")
    assert trusted_names(monkeypatch, None) == 0
