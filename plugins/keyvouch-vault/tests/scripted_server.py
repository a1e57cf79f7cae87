"""A server on loopback with scripted responses, for faults that cannot be provoked in a real one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

TOKEN_LOOKUP = b'{"data": {"ttl": 0, "renewable": false}}'


def http_response(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Return an HTTP response; it is truncated if `length` is greater than the body's."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class ScriptedServer:
    """A server that sends its responses in order, repeating the last one, and records the requests."""

    def __init__(self, *responses: bytes) -> None:
        self.responses = [*responses]
        self.requests: list[str] = []
        self.pause = 0.0
        """Seconds between two bytes of a body."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    self.requests.append(_read_request(client))
                    self._send(client, self.respond(self.requests[-1]))

    def respond(self, request: str) -> bytes:
        """Return the response to a request."""
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]

    def _send(self, client: socket.socket, data: bytes) -> None:
        if not self.pause:
            client.sendall(data)
            return
        head, end, body = data.partition(b"\r\n\r\n")
        client.sendall(head + end)
        with contextlib.suppress(OSError):  # the client has disconnected
            for byte in body:
                time.sleep(self.pause)
                client.sendall(bytes([byte]))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _read_request(client: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    sizes = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < sum(sizes):
        body += client.recv(65536)
    return (head + b"\r\n\r\n" + body).decode()


@contextlib.contextmanager
def scripted_server(*responses: bytes) -> Iterator[ScriptedServer]:
    server = ScriptedServer(*responses)
    try:
        yield server
    finally:
        server.close()
