"""HTTP over TLS on loopback for the test vault: a thread for each connection, and faults on demand."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Call:
    """A request as it came."""

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    """What its JSON says; None where there is none."""


@dataclass(frozen=True)
class Reply:
    """An answer in JSON; a body of octets goes out as it is."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """The service's error with its body: `{"error": {"code", "message", "innererror": {"code"}}}`."""

    def __init__(self, status: int, code: str, message: str, inner: str = "", **headers: str) -> None:
        super().__init__(message)
        error: dict[str, Any] = {"code": code, "message": message}
        if inner:
            error["innererror"] = {"code": inner}
        self.reply = Reply(status, {"error": error}, {name.replace("_", "-"): text for name, text in headers.items()})


class Cut(Exception):
    """End the connection without an answer."""


class Trickle(Exception):
    """Send an octet now and then, for longer than anybody waits."""


Respond = Callable[[Call], Reply]


class HttpsServer(ThreadingHTTPServer):
    """Hands each request to one function, and sends what that returns or raises."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, context: ssl.SSLContext, respond: Respond) -> None:
        self.context, self.respond = context, respond
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="test vault", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)  # the inherited one looks up the machine's name
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(60)
        # The handshake is made in the connection's own thread: a client that never speaks stops nobody else.
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as connection:
            _Handler(connection, client_address, self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were ended."""

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: HttpsServer

    def _serve(self) -> None:
        octets = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        try:
            call = Call(
                self.command,
                tuple(parts.path.strip("/").split("/")),
                dict(parse_qsl(parts.query)),
                self.headers,  # type: ignore[arg-type]  # a Message, which reads as a mapping
                json.loads(octets) if octets else None,
            )
            reply = self.server.respond(call)
        except Refusal as refusal:
            reply = refusal.reply
        except ValueError:
            reply = Refusal(400, "BadParameter", "The request body is no JSON.").reply
        except Trickle:
            self._trickle()
            return
        except Cut:
            self.close_connection = True
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)
            return
        body = reply.body if isinstance(reply.body, bytes) else b"" if reply.body is None else _json(reply.body)
        self.send_response(reply.status)
        for name, text in {"Content-Type": "application/json; charset=utf-8", **reply.headers}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _trickle(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(100):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.2)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815 - http.server's names

    def finish(self) -> None:
        """Close both sides, also where the client went away before it had read all: the inherited one stops halfway."""
        for each in (self.wfile, self.rfile):
            with contextlib.suppress(OSError):
                each.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Write nothing."""


def _json(body: Any) -> bytes:
    return json.dumps(body).encode()
