"""Servers that never finish a response, but never let a read time out: a few bytes come every fifth of a second."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator

from keyvouch.testing import Relay

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "status line": (b"HTTP/1.1 200 ", b"x"),
    "header": (_OK + b"X: ", b"x"),
    "headers": (_OK, b"X: y\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk size": (_CHUNKED, b"0"),
    "chunk extension": (_CHUNKED + b"1;", b"x"),
    "chunks": (_CHUNKED, b"1\r\n \r\n"),
    "trailer": (_CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"x"),
    "trailers": (_CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    "gzip members": (_OK + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"")),
    "body": (_OK + b"Content-Length: 1000000\r\n\r\n", b" "),
    "body without a length": (_OK + b"\r\n", b" "),
    "silence": (b"", b""),
}
"""What is sent at once, and what is then sent repeatedly."""
INTERVAL = 0.2
LASTS = 30.0
"""Duration of a drip in seconds: far longer than a test may take."""


class DripServer:
    """Answers requests with `responses`, each once, then drips; without `context` it does not use TLS."""

    def __init__(
        self, drip: str | tuple[bytes, bytes], context: ssl.SSLContext | None, responses: Iterable[bytes]
    ) -> None:
        self.drip = drip
        self._context = context
        self.responses = [*responses]
        self.asked: list[bytes] = []
        """The first line of each request."""
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                while request := connection.recv(65536):
                    if b" HTTP/1.1\r\n" in request:  # otherwise a body that arrives separately
                        self.asked.append(request.split(b"\r\n")[0])
                        self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self.responses:
            connection.sendall(self.responses.pop(0))
            return
        start, again = DRIPS[self.drip] if isinstance(self.drip, str) else self.drip
        connection.sendall(start)
        for _ in range(int(LASTS / INTERVAL)):
            if self._over.wait(INTERVAL):
                return
            connection.sendall(again)


def json_response(document: object) -> bytes:
    """Return a complete response."""
    body = json.dumps(document).encode()
    return _OK + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def dripping(
    drip: str | tuple[bytes, bytes], context: ssl.SSLContext | None = None, responses: Iterable[bytes] = ()
) -> Iterator[DripServer]:
    """Serve on 127.0.0.1 until the block ends."""
    server = DripServer(drip, context, responses)
    try:
        yield server
    finally:
        server.close()


class SlowRelay(Relay):
    """Forwards the server's bytes one at a time, so that even its TLS handshake takes minutes."""

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        if source.getsockname()[1] == self.port:
            super()._pump(source, sink)
            return
        with contextlib.suppress(OSError):
            while octets := source.recv(1):
                threading.Event().wait(INTERVAL)
                sink.sendall(octets)
