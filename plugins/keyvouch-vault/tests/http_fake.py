"""A server on loopback with scripted responses, for faults that cannot be provoked in a real one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

LOOKED_UP = b'{"data": {"ttl": 0, "renewable": false}}'


def answer(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    """Return an HTTP response; it is truncated if `length` is greater than the body's."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Fake:
    """A server that gives its answers in order, repeating the last one, and records the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = [*answers]
        self.asked: list[str] = []
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
                    self.asked.append(_request(client))
                    self._send(client, self.reply(self.asked[-1]))

    def reply(self, request: str) -> bytes:
        """Return the response to a request."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _send(self, client: socket.socket, octets: bytes) -> None:
        if not self.pause:
            client.sendall(octets)
            return
        head, end, body = octets.partition(b"\r\n\r\n")
        client.sendall(head + end)
        with contextlib.suppress(OSError):  # the client has disconnected
            for octet in body:
                time.sleep(self.pause)
                client.sendall(bytes([octet]))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _request(client: socket.socket) -> str:
    octets = b""
    while b"\r\n\r\n" not in octets:
        octets += client.recv(65536)
    head, _, body = octets.partition(b"\r\n\r\n")
    sizes = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < sum(sizes):
        body += client.recv(65536)
    return (head + b"\r\n\r\n" + body).decode()


@contextlib.contextmanager
def fake(*answers: bytes) -> Iterator[Fake]:
    server = Fake(*answers)
    try:
        yield server
    finally:
        server.close()
