"""A relay forwards, ends and stalls connections on request."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvouch.testing import Relay
from keyvouch.testing.relay import Proxy
from scripted_store import LONG_ENOUGH


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while octets := self.request.recv(4096):
            self.request.sendall(octets)


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """An echo server."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield ("127.0.0.1", running.server_address[1])
        running.shutdown()


@pytest.fixture
def relay(server: tuple[str, int]) -> Iterator[Relay]:
    with Relay(server) as running:
        yield running


def dial(relay: Relay) -> socket.socket:
    return socket.create_connection(relay.address, timeout=LONG_ENOUGH)


def is_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_data_is_forwarded(relay: Relay) -> None:
    """Data is forwarded in both directions, whatever its length."""
    octets = bytes(range(256)) * 4096
    with dial(relay) as connection:
        sender = threading.Thread(target=connection.sendall, args=(octets,))
        sender.start()
        received = b""
        while len(received) < len(octets):
            received += connection.recv(1 << 16)
        sender.join()
    assert received == octets


def test_cut_ends_open_and_new_connections(relay: Relay) -> None:
    """A cut ends open and new connections until it is restored."""
    with dial(relay) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        relay.cut()
        assert is_ended(connection)
    with dial(relay) as connection:
        assert is_ended(connection)
    relay.restore()
    with dial(relay) as connection:
        connection.sendall(b"y")
        assert connection.recv(1) == b"y"


def test_stalled_relay_accepts_but_forwards_nothing(relay: Relay) -> None:
    """While stalled it accepts connections and forwards nothing; afterwards the data held back is forwarded."""
    relay.stall()
    with dial(relay) as connection:
        connection.sendall(b"x")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(LONG_ENOUGH)
        relay.resume()
        assert connection.recv(1) == b"x"


def test_closing_one_side_closes_the_other(relay: Relay) -> None:
    """When a client disconnects, no thread is left behind."""
    before = threading.active_count()
    with dial(relay) as connection:
        connection.sendall(b"x")
        connection.recv(1)
        threads = [each for each in threading.enumerate() if each.name == "relay"]
    for thread in threads[1:]:  # the first one accepts connections
        thread.join(LONG_ENOUGH)
    assert sum(each.name == "relay" for each in threading.enumerate()) == 1
    assert threading.active_count() <= before + 1  # the server's own


def test_half_close_is_forwarded(relay: Relay) -> None:
    """A client that has shut down its sending side still gets the response."""
    with dial(relay) as connection:
        connection.sendall(b"x")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"x"
        assert is_ended(connection)


def test_unreachable_server_ends_the_connection() -> None:
    """If the server does not exist, the connection ends, as it would without the relay, but later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Relay(address) as relay, dial(relay) as connection:
        assert is_ended(connection)


def test_closed_relay_does_not_listen(server: tuple[str, int]) -> None:
    """After closing, the relay does not listen, and open connections are ended."""
    with Relay(server) as relay, dial(relay) as connection:
        connection.sendall(b"x")
        connection.recv(1)
        relay.close()
        assert is_ended(connection)
    with pytest.raises(ConnectionError):
        dial(relay)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="UNIX sockets are not supported")
def test_unix_sockets(tmp_path: Path) -> None:
    """A server at a socket path is relayed at another path, which is deleted afterwards."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Relay(path) as relay, socket.socket(socket.AF_UNIX) as client:
            client.connect(relay.address)
            server, _ = listener.accept()
            with server:
                client.sendall(b"x")
                assert server.recv(1) == b"x"
    assert not Path(relay.address).exists()


def test_proxy_connects_to_its_server(server: tuple[str, int]) -> None:
    """A proxy connects to its server whatever name is requested, which it records; it supports only CONNECT."""
    with Proxy(server) as proxy:
        with dial(proxy) as connection:
            connection.sendall(b"CONNECT vault.invalid:8200 HTTP/1.1\r\nHost: vault.invalid:8200\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
        with dial(proxy) as connection:
            connection.sendall(b"GET http://vault.invalid/ HTTP/1.1\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 405 ")
        assert proxy.asked == ["vault.invalid:8200", "http://vault.invalid/"]
