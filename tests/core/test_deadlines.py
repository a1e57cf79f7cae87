"""One deadline for a whole exchange, whichever part of it drips. Without it, each of these takes 20 seconds or more."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from keyvouch import https
from keyvouch._core.retries import Deadline
from keyvouch._system.sockets import MAX_RESPONSE_BYTES
from keyvouch.entra import transport
from keyvouch.entra.transport import Session
from keyvouch.errors import StoreUnavailable
from keyvouch.https import Limits, Pools
from keyvouch.testing.authority.tls import make_context
from servers.drips import DRIPS, SlowRelay, dripping, json_response

TIME = 0.5
"""The deadline of an exchange, in seconds."""
PLENTY = 30.0
SOON = 5.0
"""Seconds within which it must have ended, even on a busy machine; a drip goes on for 30."""

Request = Callable[..., None]


def by_pools(
    url: str, ca_file: str | None, proxy: str | None = None, body: bytes | None = None, time: float = TIME
) -> None:
    limits = Limits()
    with contextlib.closing(Pools(limits, ca_file=ca_file, proxy=proxy)) as pools, limits.within(time):
        pools.request("POST" if body else "GET", url, body, {})


def by_session(
    url: str, ca_file: str | None, proxy: str | None = None, body: bytes | None = None, time: float = TIME
) -> None:
    with Session(ca_file, proxy) as session, session.within(Deadline(time)):
        session.request("POST" if body else "GET", url, data=body)


@pytest.fixture(params=[by_pools, by_session])
def request_by(request: pytest.FixtureRequest) -> Request:
    by: Request = request.param
    return by


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    context, ca_file = make_context(tmp_path)
    return context, str(ca_file)


@contextlib.contextmanager
def ends_at_the_deadline() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises((StoreUnavailable, requests.exceptions.RequestException)) as caught:
        yield
    assert time.monotonic() - began < SOON
    message = str(caught.value)
    assert (
        isinstance(caught.value, requests.exceptions.RequestException) or "timed out" in message or "proxy" in message
    )


@pytest.mark.parametrize("drip", DRIPS)
def test_dripping_response(request_by: Request, tls: tuple[ssl.SSLContext, str], drip: str) -> None:
    """A response ends at the deadline, whichever part of it drips."""
    with dripping(drip, tls[0]) as server, ends_at_the_deadline():
        request_by(f"https://localhost:{server.port}/", tls[1])


def test_silent_handshake(request_by: Request, tls: tuple[ssl.SSLContext, str]) -> None:
    """A server that accepts connections but never answers the ClientHello is abandoned in time."""
    with dripping("silence") as server, ends_at_the_deadline():
        request_by(f"https://localhost:{server.port}/", tls[1])


def test_dripping_handshake(request_by: Request, tls: tuple[ssl.SSLContext, str]) -> None:
    """A handshake ends at the deadline, even if each byte arrives in time."""
    with (
        dripping("silence", tls[0]) as server,
        SlowRelay(("127.0.0.1", server.port)) as relay,
        ends_at_the_deadline(),
    ):
        request_by(f"https://localhost:{relay.port}/", tls[1])


@pytest.mark.parametrize("drip", ["header", "silence"])
def test_connect_timeout(
    request_by: Request, tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch, drip: str
) -> None:
    """Connecting has its own limit, far below the request's."""
    for module in (https, transport):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT", TIME)
    with dripping(drip) as server, ends_at_the_deadline():
        request_by("https://vault.test/", tls[1], f"http://localhost:{server.port}", time=PLENTY)


def test_name_lookup_without_a_thread(tls: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, as at interpreter shutdown, a name is looked up without one."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with dripping("silence", tls[0], [json_response({})]) as server:
        start = threading.Thread.start
        monkeypatch.setattr(
            threading.Thread, "start", lambda self: fail(self) if self.name == "keyvouch-dns" else start(self)
        )
        by_pools(f"https://localhost:{server.port}/", tls[1], time=PLENTY)


@pytest.mark.parametrize("drip", ["status line", "header", "continue", "silence"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_dripping_proxy(request_by: Request, tls: tuple[ssl.SSLContext, str], scheme: str, drip: str) -> None:
    """A proxy's response to CONNECT ends at the deadline, including over TLS to the proxy."""
    with dripping(drip, tls[0] if scheme == "https" else None) as server, ends_at_the_deadline():
        request_by("https://vault.test/", tls[1], f"{scheme}://localhost:{server.port}")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_dripping_handshake_through_a_proxy(request_by: Request, tls: tuple[ssl.SSLContext, str], scheme: str) -> None:
    """The deadline holds for a proxy that connects and then drips what looks like a TLS record; also for TLS in TLS."""
    drip = (b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x03\x40\x00")
    with dripping(drip, tls[0] if scheme == "https" else None) as server, ends_at_the_deadline():
        request_by("https://vault.test/", tls[1], f"{scheme}://localhost:{server.port}")


def test_dripping_metadata_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds for MSAL's query of a machine's metadata service for its region, over http."""
    monkeypatch.setattr(transport, "is_link_local", lambda _: True)
    with dripping("header") as server, ends_at_the_deadline():
        by_session(f"http://localhost:{server.port}/", None)


def test_name_lookup_that_hangs(request_by: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds even if a resolver never answers."""
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: over.wait(30.0))
    try:
        with ends_at_the_deadline():
            request_by("https://vault.test/", None)
    finally:
        over.set()


@pytest.fixture
def unresponsive_port() -> Iterator[int]:
    """The port of a server whose backlog is full: connections are neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


def test_unresponsive_addresses_share_the_deadline(
    request_by: Request, unresponsive_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many addresses share the deadline."""
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", unresponsive_port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [address] * 20)
    with ends_at_the_deadline():
        request_by("https://vault.test/", None)


def test_next_address_is_tried_in_time(
    tls: tuple[ssl.SSLContext, str], unresponsive_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that does not answer leaves time for the next."""
    with dripping("silence", tls[0], [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]) as server:
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
            for port in (unresponsive_port, server.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
        by_pools("https://localhost/", tls[1])


@pytest.mark.parametrize(
    ("request_by", "scheme"), [(by_pools, "https"), (by_pools, "http"), (by_session, "https")], indirect=["request_by"]
)
def test_server_that_does_not_read(request_by: Request, tls: tuple[ssl.SSLContext, str], scheme: str) -> None:
    """The deadline holds for a server that reads the body slowly."""
    over = threading.Event()

    def sip(listener: socket.socket) -> None:
        accepted = listener.accept()[0]
        connection = tls[0].wrap_socket(accepted, server_side=True) if scheme == "https" else accepted
        with contextlib.suppress(OSError), connection:
            while connection.recv(1024) and not over.wait(0.05):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=sip, args=(listener,))
        thread.start()
        with ends_at_the_deadline():
            request_by(f"{scheme}://localhost:{listener.getsockname()[1]}/", tls[1], body=bytes(50_000_000))
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"20\r\n%032d\r\n" % 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["continue", "body", "chunks", "trailers"],
)
def test_endless_response(request_by: Request, tls: tuple[ssl.SSLContext, str], start: bytes, again: bytes) -> None:
    """An endless stream of bytes is abandoned for its size, before the deadline."""
    many = again * (MAX_RESPONSE_BYTES // len(again))
    with dripping("silence", tls[0], [start + many + many]) as server, pytest.raises(Exception) as caught:
        request_by(f"https://localhost:{server.port}/", tls[1], time=PLENTY)
    assert "8 MiB" in str(caught.value)


@pytest.mark.parametrize("status", ["200 OK", "302 Found\r\nLocation: /"])
def test_decompression_bomb(request_by: Request, tls: tuple[ssl.SSLContext, str], status: str) -> None:
    """A small body that decompresses to a large one is refused, including that of a redirect."""
    body = gzip.compress(bytes(2 * MAX_RESPONSE_BYTES))
    head = f"HTTP/1.1 {status}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with dripping("silence", tls[0], [head + body]) as server, pytest.raises(Exception) as caught:
        request_by(f"https://localhost:{server.port}/", tls[1], time=PLENTY)
    assert "8 MiB" in str(caught.value)


def test_large_response(tls: tuple[ssl.SSLContext, str]) -> None:
    """A body within the limit is read, and the next request may be as large."""
    body = bytes(MAX_RESPONSE_BYTES - 1000)
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    limits = Limits()
    with (
        dripping("silence", tls[0], [response, response]) as server,
        contextlib.closing(Pools(limits, ca_file=tls[1])) as pools,
    ):
        for _ in range(2):
            assert len(pools.request("GET", f"https://localhost:{server.port}/", None, {}).body) == len(body)


@pytest.mark.parametrize("drip", ["header", "body", "silence"])
def test_ssl_context_of_truststore(
    request_by: Request, tls: tuple[ssl.SSLContext, str], drip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline holds after `truststore.inject_into_ssl()`, whose contexts delegate most calls to another one."""
    create = ssl.create_default_context

    class Context(ssl.SSLContext):
        inner: ssl.SSLContext

        def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
            return self.inner.wrap_socket(*args, **options)

    def create_other(**options: Any) -> ssl.SSLContext:
        context = Context(ssl.PROTOCOL_TLS_CLIENT)
        context.inner = create(**options)
        return context

    monkeypatch.setattr(ssl, "create_default_context", create_other)
    with dripping(drip, tls[0]) as server, ends_at_the_deadline():
        request_by(f"https://localhost:{server.port}/", tls[1])
