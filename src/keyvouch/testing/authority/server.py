"""An HTTPS server on loopback, a thread for each connection, that outlives whatever is sent to it.

It knows nothing of tokens and keys: it hands each well-formed request to one function and sends what that returns. The
connection ends without an answer where the function raises an OSError.
"""

import contextlib
import errno
import logging
import selectors
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

logger = logging.getLogger("keyvouch.testing.authority")

BODY_LIMIT = 64 * 1024
"""The longest request body in bytes; an assertion with a chain of five certificates takes a sixth of it."""

IDLE = 60.0
"""Seconds after which a silent connection is closed."""

NOT_OURS = {HTTPStatus.NOT_IMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED, 505: HTTPStatus.BAD_REQUEST}


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    """Without the query, still percent-encoded."""
    headers: Message
    body: bytes
    query: str = ""
    """What stands behind the `?`, still percent-encoded."""


@dataclass(frozen=True)
class Response:
    """What is sent back; `Content-Length` is added unless it is among the headers."""

    status: int
    body: bytes | Iterable[bytes] = b""
    """Of several pieces each is sent when it is there; they need a `Content-Length` of their own."""
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpsServer:
    """Listens on 127.0.0.1, and on ::1 where there is one, on one free port."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._listeners = _listen(context)
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="keyvouch server", daemon=True)
        self.port = self._listeners[0].server_port
        """The port, the same on both addresses."""

    def serve(self, respond: Callable[[Request], Response]) -> None:
        """Begin to answer; `respond` is called by many threads."""
        for listener in self._listeners:
            listener.respond = respond
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end the open connections."""
        self._waker.close()
        self._thread.join()
        self._woken.close()
        for listener in self._listeners:
            listener.server_close()

    def _accept(self) -> None:
        # serve_forever() would look at a flag from time to time, and every close() would wait for that.
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while self._woken not in (ready := [key.fileobj for key, _ in selector.select()]):
                for listener in self._listeners:
                    if listener in ready:
                        listener.handle_request()


def _listen(context: ssl.SSLContext) -> "list[_Listener]":
    for _ in range(20):
        first = _Listener(("127.0.0.1", 0), context)
        try:
            second = _Listener6(("::1", first.server_port), context)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return [first]  # no IPv6 on this machine
            # Another program has the port at ::1, and `localhost` may lead there: take another port.
            first.server_close()
        else:
            return [first, second]
    raise OSError(errno.EADDRINUSE, "no port is free at 127.0.0.1 and at ::1")


class _Listener(ThreadingHTTPServer):
    timeout = 0  # handle_request() is called when there is one
    daemon_threads = True  # who forgets close() can still end the program
    request_queue_size = 128
    # A port that another program listens on must not be shared with it, which is what this means on Windows.
    allow_reuse_address = sys.platform != "win32"
    allow_reuse_port = False

    respond: Callable[[Request], Response]

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self._context = context
        self._changed = threading.Condition()
        self._running = 0
        self._open: set[ssl.SSLSocket] = set()
        self._closing = False
        # Last, since it calls server_close() when it cannot bind.
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look up the machine's name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._running += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake is made here, in the connection's own thread: a client that never speaks stops nobody else.
        request.settimeout(IDLE)
        wrapped = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        with wrapped as connection, self._listed(connection):
            connection.do_handshake()
            _Handler(connection, client_address, self)

    @contextlib.contextmanager
    def _listed(self, connection: ssl.SSLSocket) -> Iterator[None]:
        with self._changed:
            if self._closing:
                raise ConnectionAbortedError
            self._open.add(connection)
        try:
            yield
        finally:
            with self._changed:
                self._open.discard(connection)

    def server_close(self) -> None:
        super().server_close()
        with self._changed:
            self._closing = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    # Past SSLSocket's own shutdown(), which takes the TLS state away from the thread that uses it.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._running, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver calls it so
        error = sys.exception()
        if isinstance(error, OSError):
            logger.debug("a connection ended: %s", type(error).__name__)
        else:
            logger.error("a request could not be answered", exc_info=error)


class _Listener6(_Listener):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "keyvouch"
    sys_version = ""
    timeout = IDLE
    # The answer goes out in one piece and at once: with Nagle's algorithm every second answer takes 40 ms.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listener

    def _serve(self) -> None:
        length = self._body_length()
        if isinstance(length, HTTPStatus):
            self._give_up(length)
            return
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionAbortedError
        path, _, query = self.path.partition("?")
        request = Request(self.command, path, self.headers, body, query)
        response = self.server.respond(request)
        logger.debug("%s %s: %d", request.method, request.path, response.status)
        self._send(response)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815 - http.server's names

    def _body_length(self) -> int:
        """The length of the body in bytes, or the HTTPStatus of a refusal."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers:
            return HTTPStatus.LENGTH_REQUIRED
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            return HTTPStatus.BAD_REQUEST
        # Python refuses to read a number of thousands of digits.
        too_long = len(lengths[0]) > len(str(BODY_LIMIT)) or int(lengths[0]) > BODY_LIMIT
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_long else int(lengths[0])

    def _give_up(self, status: HTTPStatus) -> None:
        self.send_error(status)
        self.wfile.flush()
        # A connection that is closed while something is unread is reset, and the client may miss the answer.
        self.connection.settimeout(1)
        self.rfile.read(16 * BODY_LIMIT)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        pieces = [response.body] if isinstance(response.body, bytes) else response.body
        length = {"Content-Length": str(len(response.body))} if isinstance(response.body, bytes) else {}
        for name, value in (length | dict(response.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        # What a client does wrong is never the server's fault, though http.server answers so.
        super().send_error(NOT_OURS.get(code, code), message, explain)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Write nothing to stderr; `_serve` logs what matters."""
