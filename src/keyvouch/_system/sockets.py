"""Sockets whose waits all end with the request that they serve.

urllib3 and http.client limit each read, not the whole exchange: a server that sends a byte from time to time keeps a
request alive indefinitely, in the status line, a header, a chunk size, a trailer, `100 Continue`, or a proxy's response
to CONNECT. Here each socket operation gets only the time that the request has left, and the bytes received are counted.
"""

from __future__ import annotations

import errno
import ipaddress
import queue
import socket
import ssl
import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

MAX_RESPONSE_BYTES = 8 * 1024 * 1024
"""Maximum bytes of a response, as received with its headers, and again after decompression."""
_TIMEOUT_TOLERANCE = 0.02
"""Seconds by which an operation may outlast its exchange."""


class ResponseTooLarge(OSError):
    """A response is larger than `MAX_RESPONSE_BYTES`."""

    def __init__(self) -> None:
        super().__init__(errno.EMSGSIZE, f"the response is larger than {MAX_RESPONSE_BYTES >> 20} MiB")


class _Exchange(threading.local):
    """The request that this thread is making."""

    end: float | None = None
    """Its deadline (`time.monotonic`); None outside of `exchange`."""
    bytes_left = 0

    def seconds_left(self) -> float | None:
        """Return the seconds left, or None outside of `exchange`. Raises TimeoutError after the deadline."""
        if self.end is None:
            return None
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        return left


_current = _Exchange()


class _LimitScope:
    """Limits this thread's exchanges in a `with` block; a class, since it is entered for each request."""

    __slots__ = ("_bytes", "_outer", "_seconds")

    def __init__(self, seconds: float | None, most_bytes: int | None) -> None:
        self._seconds, self._bytes = seconds, most_bytes
        self._outer: tuple[float | None, int] = None, 0

    def __enter__(self) -> None:
        outer, _ = self._outer = _current.end, _current.bytes_left
        if self._seconds is not None:
            end = time.monotonic() + self._seconds
            _current.end = end if outer is None or end < outer else outer
        if self._bytes is not None:
            _current.bytes_left = self._bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.end, bytes_left = self._outer
        if self._bytes is not None:
            _current.bytes_left = bytes_left


def exchange(seconds: float) -> AbstractContextManager[None]:
    """Limit the requests that this thread makes in a block: `seconds` and `MAX_RESPONSE_BYTES` for all of them.

    Applies to sockets from `connect`, with TLS from a context passed to `use_bounded_sockets`. These raise TimeoutError
    and `ResponseTooLarge`, which urllib3 and requests wrap.
    """
    return _LimitScope(seconds, MAX_RESPONSE_BYTES)


def ending_within(seconds: float | None) -> AbstractContextManager[None]:
    """End all exchanges that this thread makes in a block within `seconds`; None changes nothing."""
    return _LimitScope(seconds, None)


def _apply_timeout(sock: socket.socket) -> None:
    left = _current.seconds_left()
    if left is not None:
        timeout = sock.gettimeout()
        if timeout is None or abs(timeout - left) > _TIMEOUT_TOLERANCE:  # each change is a system call
            socket.socket.settimeout(sock, left)


def _count_received(size: int) -> None:
    if _current.end is not None:
        _current.bytes_left -= size
        if _current.bytes_left < 0:
            raise ResponseTooLarge


if TYPE_CHECKING:
    _Mixin = socket.socket
else:
    _Mixin = object


class _Bounded(_Mixin):
    """Socket operations that end with the thread's exchange."""

    __slots__ = ()

    def settimeout(self, value: float | None) -> None:
        """Set the timeout; within an exchange do nothing, since each operation gets the time that is left."""
        if _current.end is None:
            super().settimeout(value)

    def recv(self, *args: Any, **options: Any) -> bytes:
        """Receive bytes within the exchange's limits."""
        _apply_timeout(self)
        received = super().recv(*args, **options)
        _count_received(len(received))
        return received

    def recv_into(self, *args: Any, **options: Any) -> int:
        """Receive into a buffer within the exchange's limits."""
        _apply_timeout(self)
        size = super().recv_into(*args, **options)
        _count_received(size)
        return size

    def send(self, *args: Any, **options: Any) -> int:
        """Send bytes within the exchange's deadline."""
        _apply_timeout(self)
        return super().send(*args, **options)

    def sendall(self, *args: Any, **options: Any) -> None:
        """Send all bytes within the exchange's deadline."""
        _apply_timeout(self)
        super().sendall(*args, **options)


class Socket(_Bounded, socket.socket):
    """A socket whose operations end with the thread's exchange."""

    __slots__ = ()


class TLSSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket whose operations end with the thread's exchange.

    It has the memory layout of `SSLSocket`, so that the class of an `SSLSocket` can be changed to it.
    """

    __slots__ = ()

    sendall = ssl.SSLSocket.sendall  # which calls `send`

    def do_handshake(self, block: bool = False) -> None:
        """Perform the handshake within the exchange's deadline."""
        _apply_timeout(self)
        super().do_handshake(block)


def use_bounded_sockets(context: ssl.SSLContext) -> None:
    """Make a context create sockets that end with their exchange, even if it passes `wrap_socket` on to another.

    `truststore.inject_into_ssl()` replaces `ssl.SSLContext` with such a class.
    """
    context.sslsocket_class = TLSSocket
    wrap = context.wrap_socket

    def wrap_socket(sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        # The handshake as a whole ends with the timeout that the socket has when it begins.
        _apply_timeout(sock)
        wrapped = wrap(sock, *args, **options)
        if not isinstance(wrapped, TLSSocket):
            wrapped.__class__ = TLSSocket
        return wrapped

    context.wrap_socket = wrap_socket  # type: ignore[method-assign]


def connect(host: str, port: int, options: Any, family: socket.AddressFamily) -> Socket:
    """Connect to the first address that accepts; each gets an equal share of the time that is left.

    Raises UnicodeError for an invalid host name, OSErrors as they come.
    """
    addresses = _resolve(host, port, family)
    failure = OSError("the name has no address")
    for position, address in enumerate(addresses):
        left = _current.seconds_left()
        try:
            return _connect_to(address, options, None if left is None else left / (len(addresses) - position))
        except OSError as error:
            failure = error
    try:
        raise failure
    finally:
        del failure  # otherwise it would refer to this frame, and this frame to it


def _connect_to(address: Any, options: Any, timeout: float | None) -> Socket:
    family, kind, protocol, _, endpoint = address
    sock = Socket(family, kind, protocol)
    try:
        for option in options:
            sock.setsockopt(*option)
        socket.socket.settimeout(sock, timeout)
        sock.connect(endpoint)
    except BaseException:
        sock.close()
        raise
    return sock


def _resolve(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    """Look up a name. `getaddrinfo` cannot be interrupted: past the deadline its thread is left to end by itself."""
    host.encode("idna")
    left = _current.seconds_left()
    query = (host, port, family, socket.SOCK_STREAM)
    if left is None or _is_numeric(host):
        return socket.getaddrinfo(*query)
    results: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            results.put(socket.getaddrinfo(*query))
        except Exception as error:  # noqa: BLE001 - raised in the waiting thread
            results.put(error)

    try:
        threading.Thread(target=look_up, name="keyvouch-dns", daemon=True).start()
    except RuntimeError:  # no more threads: the interpreter is shutting down, or the limit is reached
        look_up()
    try:
        result = results.get(timeout=left)
    except queue.Empty:
        raise TimeoutError(errno.ETIMEDOUT, f"looking up {host} timed out") from None
    if isinstance(result, Exception):
        raise result
    return result


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
