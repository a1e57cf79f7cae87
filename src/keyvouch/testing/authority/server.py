"""An HTTPS server on loopback, with one thread per connection, that survives any input.

It knows nothing about tokens and keys: it passes each well-formed request to a function and sends the response that
this returns. If the function raises an OSError, the connection ends without a response.
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
"""Maximum size of a request body in bytes; an assertion with five certificates takes a sixth of it."""

IDLE = 60.0
"""Number of seconds after which an idle connection is closed."""

CLIENT_ERRORS = {HTTPStatus.NOT_IMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED, 505: HTTPStatus.BAD_REQUEST}


@dataclass(frozen=True)
class Request:
    """A request as received."""

    method: str
    path: str
    """Without the query, still percent-encoded."""
    headers: Message
    body: bytes
    query: str = ""
    """The part after the `?`, still percent-encoded."""


@dataclass(frozen=True)
class Response:
    """A response; `Content-Length` is added unless it is among the headers."""

    status: int
    body: bytes | Iterable[bytes] = b""
    """An iterable's items are sent as they become available; it requires a `Content-Length` header."""
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpsServer:
    """Listens on 127.0.0.1, and on ::1 if available, on the same free port."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._listeners = _listen(context)
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="keyvouch server", daemon=True)
        self.port = self._listeners[0].server_port
        """The port, the same on both addresses."""

    def serve(self, respond: Callable[[Request], Response]) -> None:
        """Start responding; `respond` is called from many threads."""
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
        # serve_forever() polls a flag, and every close() would wait for the next poll.
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
            # Another program uses the port on ::1, and `localhost` may resolve to it: try another port.
            first.server_close()
        else:
            return [first, second]
    raise OSError(errno.EADDRINUSE, "no port is free on both 127.0.0.1 and ::1")


class _Listener(ThreadingHTTPServer):
    timeout = 0  # handle_request() is called only if a connection is waiting
    daemon_threads = True  # a program can end even if close() was not called
    request_queue_size = 128
    # Do not share a port with another program, which is what this option would do on Windows.
    allow_reuse_address = sys.platform != "win32"
    allow_reuse_port = False

    respond: Callable[[Request], Response]

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        self._context = context
        self._changed = threading.Condition()
        self._running = 0
        self._open: set[ssl.SSLSocket] = set()
        self._closing = False
        # Last, since it calls server_close() if it cannot bind.
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
        # The handshake runs in the connection's own thread, so that a silent client does not block others.
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
                    # Bypass SSLSocket.shutdown(), which removes the TLS state that another thread is using.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._running, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        error = sys.exception()
        if isinstance(error, OSError):
            logger.debug("a connection ended: %s", type(error).__name__)
        else:
            logger.error("failed to respond to a request", exc_info=error)


class _Listener6(_Listener):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "keyvouch"
    sys_version = ""
    timeout = IDLE
    # Send the response at once and in one piece: with Nagle's algorithm every second response takes 40 ms.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Listener

    def _serve(self) -> None:
        length = self._body_length()
        if isinstance(length, HTTPStatus):
            self._refuse(length)
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
        """Return the length of the body in bytes, or the HTTPStatus of an error."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers:
            return HTTPStatus.LENGTH_REQUIRED
        if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            return HTTPStatus.BAD_REQUEST
        # Python refuses to parse a number with thousands of digits.
        too_long = len(lengths[0]) > len(str(BODY_LIMIT)) or int(lengths[0]) > BODY_LIMIT
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if too_long else int(lengths[0])

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_error(status)
        self.wfile.flush()
        # Closing a connection with unread data resets it, and the client may miss the response.
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
        # A client's mistake is not a server error, although http.server reports it as one.
        super().send_error(CLIENT_ERRORS.get(code, code), message, explain)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the inherited name
        """Write nothing to stderr; `_serve` logs what matters."""
