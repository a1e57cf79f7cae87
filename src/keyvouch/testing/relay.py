"""A place between a store and its server, for tests of what happens when the network fails.

with Relay(("127.0.0.1", 8200)) as relay:
    uri = f"vault:address=https://localhost:{relay.port};..."
    relay.cut()      # every connection ends, and new ones do too
    relay.restore()
    relay.stall()    # connections are taken, and nothing passes
    relay.resume()   # what was held up passes on
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Address = tuple[str, int] | str
"""Host and port, or the path of a UNIX socket."""

_TRANSFER = 1 << 16


class Relay:
    """Listens on loopback and passes on, in both directions, until it is told otherwise. Use it with `with`."""

    def __init__(self, server: Address) -> None:
        self.server = server
        """Where connections lead to."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._listener = self._listen()
        self.address: Any = self._listener.getsockname()
        """Where it listens: host and port, or the path of a UNIX socket, as the server does."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if isinstance(self.address, str):
            raise TypeError("a UNIX socket has no port")
        number: int = self.address[1]
        return number

    def cut(self) -> None:
        """End every connection, and each new one as soon as it is made."""
        with self._lock:
            self._is_cut = True
            for each in self._open:
                _end(each)

    def restore(self) -> None:
        """Take connections again."""
        self._is_cut = False

    def stall(self) -> None:
        """Take connections, and let nothing pass: the server seems to think for ever."""
        self._flows.clear()

    def resume(self) -> None:
        """Let all pass again, first what was held up."""
        self._flows.set()

    def close(self) -> None:
        """End all of it."""
        _end(self._listener)  # closing it alone would leave `accept` waiting
        self._listener.close()
        self.cut()
        self._flows.set()
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> socket.socket:
        if not isinstance(self.server, str):
            return socket.create_server(("127.0.0.1", 0))
        self._folder = tempfile.TemporaryDirectory(prefix="relay-")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(Path(self._folder.name) / "socket"))
        listener.listen()
        return listener

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="relay", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._counted(client):
            if not self._greet(client):
                return
            with self._dial() as server, self._counted(server):
                back = threading.Thread(target=self._pump, args=(server, client), name="relay", daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _greet(self, client: socket.socket) -> bool:  # noqa: ARG002 - for a proxy
        """Do what comes before the first octet of the server's."""
        return True

    def _dial(self) -> socket.socket:
        if not isinstance(self.server, str):
            return socket.create_connection(self.server)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.server)
        return server

    @contextlib.contextmanager
    def _counted(self, each: socket.socket) -> Any:
        with self._lock:
            if self._is_cut:
                raise ConnectionResetError
            self._open.add(each)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(each)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while octets := source.recv(_TRANSFER):
                self._flows.wait()
                sink.sendall(octets)
            self._flows.wait()
            sink.shutdown(socket.SHUT_WR)  # the other direction goes on
        except OSError:
            _end(source)
            _end(sink)


class Proxy(Relay):
    """An HTTP proxy that leads every CONNECT (RFC 9110, section 9.3.6) to its server, whatever name was asked for."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.asked: list[str] = []
        """What it was asked to lead to: `vault.invalid:8200`."""
        super().__init__(server)

    def _greet(self, client: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            octets = client.recv(_TRANSFER)
            if not octets:
                return False
            head += octets
        method, target, _ = head.split(b" ", 2)
        self.asked.append(target.decode())
        self._flows.wait()
        if method != b"CONNECT":
            client.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True


def _end(connection: socket.socket) -> None:
    """Close it for both sides, and for the copies in forked children; the descriptor is its owner's to close."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
