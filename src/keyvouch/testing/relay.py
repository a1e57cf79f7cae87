"""A relay between a store and its server, for testing network failures.

with Relay(("127.0.0.1", 8200)) as relay:
    uri = f"vault:address=https://localhost:{relay.port};..."
    relay.cut()      # ends every connection, and new ones as well
    relay.restore()
    relay.stall()    # accepts connections, but passes no data
    relay.resume()   # passes on the data that was held back
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
    """Listens on loopback and forwards data in both directions, until a method stops it. Use it with `with`."""

    def __init__(self, server: Address) -> None:
        self.server = server
        """The address to which connections are forwarded."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._listener = self._listen()
        self.address: Any = self._listener.getsockname()
        """The listening address: host and port, or the path of a UNIX socket, the same kind as the server's."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self._flowing = threading.Event()
        self._flowing.set()
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
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
        """Accept connections again."""
        self._is_cut = False

    def stall(self) -> None:
        """Accept connections but pass no data, as if the server never responded."""
        self._flowing.clear()

    def resume(self) -> None:
        """Pass data again, starting with the data held back."""
        self._flowing.set()

    def close(self) -> None:
        """Stop listening, and end all connections."""
        _end(self._listener)  # closing the socket would not wake up `accept`
        self._listener.close()
        self.cut()
        self._flowing.set()
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
        with client, contextlib.suppress(OSError), self._registered(client):
            if not self._handshake(client):
                return
            with self._connect() as server, self._registered(server):
                back = threading.Thread(target=self._pump, args=(server, client), name="relay", daemon=True)
                back.start()
                self._pump(client, server)
                back.join()

    def _handshake(self, client: socket.socket) -> bool:  # noqa: ARG002 - used by the proxy
        """Exchange what precedes the server's protocol; return False to end the connection."""
        return True

    def _connect(self) -> socket.socket:
        if not isinstance(self.server, str):
            return socket.create_connection(self.server)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.server)
        return server

    @contextlib.contextmanager
    def _registered(self, each: socket.socket) -> Any:
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
            while data := source.recv(_TRANSFER):
                self._flowing.wait()
                sink.sendall(data)
            self._flowing.wait()
            sink.shutdown(socket.SHUT_WR)  # the other direction stays open
        except OSError:
            _end(source)
            _end(sink)


class Proxy(Relay):
    """An HTTP proxy that connects every CONNECT (RFC 9110, section 9.3.6) to its server, for any target."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.asked: list[str] = []
        """The requested targets, such as `vault.invalid:8200`."""
        super().__init__(server)

    def _handshake(self, client: socket.socket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(_TRANSFER)
            if not data:
                return False
            head += data
        method, target, _ = head.split(b" ", 2)
        self.asked.append(target.decode())
        self._flowing.wait()
        if method != b"CONNECT":
            client.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True


def _end(connection: socket.socket) -> None:
    """Shut it down for both sides, including copies in forked children; the owner closes the descriptor."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
