"""Requests from a store to its server: whom they trust, how they are routed, and when they end."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from pathlib import Path

import pytest
import urllib3

from keyvouch._system.sockets import MAX_RESPONSE_BYTES
from keyvouch.errors import ConfigurationError, StoreUnavailable
from keyvouch.https import Limits, Pools, is_loopback, proxy_for, retry_after
from keyvouch.secrets import Secret
from keyvouch.testing.authority.tls import make_context
from traces import traces

Talk = Callable[[socket.socket, bytes], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Accepts connections one after the other, and answers each request as the test says."""

    def __init__(self, context: ssl.SSLContext | None, host: str) -> None:
        self.asked: list[bytes] = []
        self.talk: Talk = lambda connection, _: connection.sendall(OK)
        self._context = context
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> str:
        return f"{'https' if self._context else 'http'}://localhost:{self.port}"

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                if self._context:
                    connection = self._context.wrap_socket(connection, server_side=True)
                with connection:
                    while request := connection.recv(65536):
                        if b" HTTP/1." in request:  # otherwise the body, which arrives separately
                            self.asked.append(request.split(b" HTTP/")[0])
                            self.talk(connection, request)


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(context, host)
    server.thread.start()
    try:
        yield server
    finally:
        server.end()
        server.thread.join()


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    context, ca_file = make_context(tmp_path)
    return context, str(ca_file)


@pytest.fixture
def server(tls: tuple[ssl.SSLContext, str]) -> Iterator[Server]:
    with serving(tls[0]) as server:
        yield server


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def pools(tls: tuple[ssl.SSLContext, str], limits: Limits) -> Iterator[Pools]:
    with contextlib.closing(Pools(limits, ca_file=tls[1])) as pools:
        yield pools


def test_any_status_is_returned(server: Server, pools: Pools) -> None:
    """A refusal is returned too, and the connection is reused."""
    assert pools.request("GET", f"{server.address}/v1/a?b=c", None, {}).body == b"{}"
    server.talk = lambda connection, _: connection.sendall(
        b"HTTP/1.1 403 Forbidden\r\nX-Reason: role\r\nContent-Length: 0\r\n\r\n"
    )
    reply = pools.request("POST", server.address, b"{}", {})
    assert (reply.status, reply.reason, reply.headers["x-reason"], reply.body) == (403, "Forbidden", "role", b"")
    assert server.asked == [b"GET /v1/a?b=c", b"POST /"]


def test_redirect_is_not_followed(server: Server, pools: Pools) -> None:
    """A redirect is not followed, since a token is meant for one host."""
    server.talk = lambda connection, _: connection.sendall(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    )
    assert pools.request("GET", f"{server.address}/", None, {}).status == 307
    assert len(server.asked) == 1


def test_plain_pool(server: Server, pools: Pools) -> None:
    """A pool of urllib3's own trusts the same CA, repeats and redirects nothing, and is closed with the others."""
    pool = pools.plain_pool(server.address)
    assert type(pool) is urllib3.HTTPSConnectionPool
    server.talk = lambda connection, _: connection.sendall(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    )
    assert pool.urlopen("POST", "/sign", body=b"{}").status == 307
    server.talk = lambda connection, _: connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(urllib3.exceptions.HTTPError):
        pool.urlopen("POST", "/sign", body=b"{}")
    assert server.asked == [b"POST /sign"] * 2
    pools.close()
    with pytest.raises(urllib3.exceptions.ClosedPoolError):
        pool.urlopen("POST", "/sign", body=b"{}")


def test_plain_pool_uses_the_proxy(limits: Limits) -> None:
    """A pool of urllib3's own uses the same proxy, with its credentials."""
    heads: list[bytes] = []

    def refuse(connection: socket.socket, request: bytes) -> None:
        heads.append(request)
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with serving(None) as proxy:
        proxy.talk = refuse
        pools = Pools(limits, proxy=f"http://127.0.0.1:{proxy.port}", proxy_credentials=Secret("me:s:cret"))
        with pytest.raises(urllib3.exceptions.ProxyError), contextlib.closing(pools):
            pools.plain_pool("https://vault.test").urlopen("GET", "/")
    assert proxy.asked == [b"CONNECT vault.test:443"]
    assert b"Basic bWU6czpjcmV0\r\n" in heads[0]


def test_unknown_servers_are_not_trusted(server: Server, limits: Limits, tls: tuple[ssl.SSLContext, str]) -> None:
    """Neither an unknown CA nor another host's certificate is trusted."""
    with pytest.raises(ConfigurationError, match="is not trusted") as caught:
        Pools(limits).request("GET", f"{server.address}/", None, {})
    assert "ca-file=" in caught.value.hint
    with serving(tls[0], "127.0.0.2") as other, pytest.raises(ConfigurationError, match="IP address mismatch"):
        Pools(limits, ca_file=tls[1]).request("GET", f"https://127.0.0.2:{other.port}/", None, {})
    assert not server.asked + other.asked


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_ca_from_the_environment(
    server: Server, limits: Limits, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The environment's CA is trusted if none is configured; if it is missing, the error says so."""
    monkeypatch.setenv(variable, tls[1])
    assert Pools(limits).request("GET", f"{server.address}/", None, {}).status == 200
    monkeypatch.setenv(variable, "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=r"/nowhere/ca\.pem do not exist"):
        Pools(limits)


def test_ca_of_the_system(
    server: Server, limits: Limits, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any CA file, the system's CAs that OpenSSL finds are trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", tls[1])
    assert Pools(limits).request("GET", f"{server.address}/", None, {}).status == 200


def test_invalid_client_certificate(limits: Limits, tls: tuple[ssl.SSLContext, str], tmp_path: Path) -> None:
    """The error names the invalid file."""
    with pytest.raises(ConfigurationError, match=r"client certificate .*client\.pem or its key cannot be used"):
        Pools(limits, client_certificate=(str(tmp_path / "client.pem"), tls[1]))


def drip(connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" ")
        threading.Event().wait(0.02)


def flood(connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    for _ in range(MAX_RESPONSE_BYTES // 65536 + 2):
        connection.sendall(bytes(65536))


def cut(connection: socket.socket, request: bytes) -> None:
    connection.sendall(OK[:-1])
    connection.close()


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (lambda *_: None, "timed out"),
        (drip, "timed out"),
        (flood, "larger than 8 MiB"),
        (cut, "closed the connection"),
        (lambda connection, _: connection.close(), "closed the connection"),
        (lambda connection, _: connection.sendall(b"SSH-2.0-none\r\n\r\n"), "not HTTP: SSH-2.0-none"),
    ],
    ids=["silence", "drip", "flood", "cut", "hung up", "no http"],
)
def test_invalid_responses(server: Server, pools: Pools, limits: Limits, talk: Talk, message: str) -> None:
    """A request ends at its deadline, and is sent once."""
    server.talk = talk
    with limits.within(0.5), pytest.raises(StoreUnavailable, match=message) as caught:
        pools.request("GET", f"{server.address}/", None, {})
    assert caught.value.hint
    assert len(server.asked) == 1


def test_expired_deadline(server: Server, pools: Pools, limits: Limits) -> None:
    """After the deadline nothing is sent; and a longer block inside a shorter one does not extend it."""
    with (
        limits.within(-1),
        limits.within(10),
        pytest.raises(StoreUnavailable, match="timed out"),
    ):
        pools.request("GET", f"{server.address}/", None, {})
    assert not server.asked
    assert limits.left() > 0


def test_refused_connection(pools: Pools) -> None:
    """A refused connection means that the store is not there."""
    with pytest.raises(StoreUnavailable, match="https://localhost:9 cannot be reached: Connection refused"):
        pools.request("GET", "https://localhost:9/", None, {})


@pytest.mark.parametrize("given", ["option", "environment", "reference", "reference for the environment", "both"])
def test_proxy_with_credentials(limits: Limits, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """The proxy gets its password, which no error, cause or frame shows; a reference overrides the address."""
    heads: list[bytes] = []

    def refuse(connection: socket.socket, request: bytes) -> None:
        heads.append(request)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with serving(None) as proxy:
        proxy.talk = refuse
        plain = f"http://127.0.0.1:{proxy.port}"
        address = f"http://me:s%3Acret@127.0.0.1:{proxy.port}"
        credentials = Secret("me:s:cret") if "reference" in given or given == "both" else None
        if "environment" in given:
            monkeypatch.setenv("HTTPS_PROXY", plain if credentials else address)
            pools = Pools(limits, proxy_credentials=credentials)
        else:
            option = {"option": address, "both": address.replace("me", "other")}.get(given, plain)
            pools = Pools(limits, proxy=option, proxy_credentials=credentials)
        with pytest.raises(StoreUnavailable, match=r"the proxy http://127\.0\.0\.1:\d+ rejected the cred") as caught:
            pools.request("GET", "https://vault.test/", None, {})
    assert proxy.asked == [b"CONNECT vault.test:443"]
    assert b"Basic bWU6czpjcmV0\r\n" in heads[0]
    assert all("cret@" not in shown and "s:cret" not in shown for shown in traces(caught.value))


def test_non_ascii_proxy_password(limits: Limits) -> None:
    """The password is sent in UTF-8 (RFC 7617); a library would fail and quote it."""
    heads: list[bytes] = []

    def refuse(connection: socket.socket, request: bytes) -> None:
        heads.append(request)
        connection.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")

    with serving(None) as proxy:
        proxy.talk = refuse
        pools = Pools(limits, proxy=f"http://127.0.0.1:{proxy.port}", proxy_credentials=Secret("me:\u043f\u0430"))
        with pytest.raises(StoreUnavailable):
            pools.request("GET", "https://vault.test/", None, {})
    assert b"Basic " + base64.b64encode("me:\u043f\u0430".encode()) in heads[0]


@pytest.mark.parametrize(
    "address",
    [
        "ftp://me:s-cret@proxy.test",
        "http://me:s-cret@[proxy",
        "http://me:s-cret@proxy:port",
        "http://me:s-cret@proxy\u2100.test",
        "http://me:s-cret/x@proxy",
        "me:s-cret@",
        "http://***@proxy.test",
    ],
)
@pytest.mark.parametrize("given", ["option", "environment"])
def test_invalid_proxy(limits: Limits, monkeypatch: pytest.MonkeyPatch, given: str, address: str) -> None:
    """The error does not contain the address, which may include a password."""
    monkeypatch.setenv("HTTPS_PROXY", address if given == "environment" else "")
    pools = Pools(limits, proxy=address if given == "option" else None)
    with pytest.raises(ConfigurationError, match="Invalid proxy URL") as caught:
        pools.request("GET", "https://vault.test/", None, {})
    assert all("s-cret" not in shown for shown in traces(caught.value))


def test_unreachable_proxy(limits: Limits) -> None:
    """The password is not shown either if nobody listens or the proxy's name is unknown."""
    for host in ("127.0.0.1:1", "proxy.invalid:3128"):
        pools = Pools(limits, proxy=f"http://me:s-cret@{host}")
        with pytest.raises(StoreUnavailable) as caught:
            pools.request("GET", "https://vault.test/", None, {})
        assert all("s-cret" not in shown for shown in traces(caught.value))


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("https://localhost:8200", True),
        ("https://127.9.9.9/v1", True),
        ("https://[::1]:8200", True),
        ("http://169.254.169.254/metadata", True),
        ("https://contoso.vault.azure.net", False),
        ("https://localhost.example", False),
    ],
)
def test_local_addresses_bypass_the_proxy(url: str, *, near: bool) -> None:
    """The machine itself and the cloud's metadata service are reached without a proxy."""
    assert proxy_for(url, "http://proxy.test") == (None if near else "http://proxy.test")
    assert is_loopback(url) == (near and "169" not in url)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("9" * 400, 86_400.0),
        ("NaN", None),
        ("inf", None),
        ("\u0663", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Retry-After is in seconds, or a date that may have passed."""
    assert retry_after({"Retry-After": value}) == seconds


def test_retry_after_a_date() -> None:
    """A Retry-After date is converted to seconds from now."""
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=2)
    assert 60 < (retry_after({"Retry-After": format_datetime(moment, usegmt=True)}) or 0) <= 120


@pytest.mark.parametrize("value", ["s.marker\nmore", "marker\r\nX: y", "marker\u20ac", "marker\0"])
def test_invalid_header(limits: Limits, value: str) -> None:
    """The value may be a token: it is in neither the error nor its causes, and nothing is sent."""
    with serving(None) as server:
        pools = Pools(limits)
        with pytest.raises(ConfigurationError, match="header") as caught:
            pools.request("GET", f"{server.address}/", None, {"X-Vault-Token": value})
        pools.close()
    assert caught.value.hint
    assert "marker" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    assert server.asked == []


@pytest.mark.parametrize("proxy", ["http://me:mark%0Aer@proxy.test", "http://m%3Aarker:x@proxy.test"])
def test_invalid_proxy_credentials(limits: Limits, proxy: str) -> None:
    """RFC 7617 allows no control characters, and no colon in the user name."""
    with pytest.raises(ConfigurationError, match="proxy") as caught:
        Pools(limits, proxy=proxy).request("GET", "https://vault.test/", None, {})
    assert "er" not in f"{caught.value.__context__!r}"


def test_proxy_password_outside_latin_1(limits: Limits) -> None:
    """A password outside Latin-1 is sent in UTF-8."""
    with serving(None) as proxy:
        heads: list[bytes] = []

        def refuse(connection: socket.socket, request: bytes) -> None:
            heads.append(request)
            connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

        proxy.talk = refuse
        pools = Pools(limits, proxy=f"http://me:%E2%82%AC@127.0.0.1:{proxy.port}")
        with pytest.raises(StoreUnavailable):
            pools.request("GET", "https://vault.test/", None, {})
        pools.close()
    assert base64.b64encode("me:\u20ac".encode()) in heads[0]


def test_request_is_sent_in_one_piece(limits: Limits) -> None:
    """Head and body are sent in one piece, and so is the next request on the connection."""
    pieces: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while piece := connection.recv(65536):
                    pieces.append(piece)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve)
        thread.start()
        pools = Pools(limits)
        for number in range(2):
            reply = pools.request("POST", f"http://127.0.0.1:{listener.getsockname()[1]}/", b"body %d" % number, {})
            assert reply.body == b"{}"
        pools.close()
        thread.join()
    assert [(piece[:4], piece[-6:]) for piece in pieces] == [(b"POST", b"body 0"), (b"POST", b"body 1")]
