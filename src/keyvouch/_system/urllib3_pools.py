"""Connection pools for urllib3 whose connections end with the request that they serve (`sockets`).

This is the only module that uses private names of urllib3: `HTTPConnection._new_conn`, which creates the socket, and
`HTTPConnection._dns_host`, the name to look up; and of http.client: `HTTPConnection._tunnel`, which asks a proxy for a
connection. urllib3 has no public way to replace the socket's class, to limit a connection as a whole, or to tell a
proxy's invalid response from the server's. A test fails if a release no longer has these names.
"""

from __future__ import annotations

import socket
import sys
from http.client import HTTPException
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
)
from urllib3.util.connection import allowed_gai_family

from keyvouch._system.sockets import connect, ending_within


class _Connection(HTTPConnection):
    """A connection made within its connect timeout: name lookup, all addresses, the proxy and TLS together.

    Sends a request with its body at once: one system call and one TLS record.
    """

    _unsent: list[bytes] | None = None
    """Data to send, while a request is being assembled."""

    def request(self, *args: Any, **options: Any) -> None:
        """Send a request, with headers and body in one piece."""
        unsent: list[bytes] = []
        self._unsent = unsent
        try:
            super().request(*args, **options)
        finally:
            self._unsent = None
        if unsent:
            self.send(b"".join(unsent))

    def send(self, data: Any) -> None:
        """Send data; while a request is being assembled, collect it."""
        if self._unsent is None:
            super().send(data)
        else:
            self._unsent.append(data)

    def connect(self) -> None:
        with ending_within(self.timeout if isinstance(self.timeout, int | float) else None):
            super().connect()

    def _tunnel(self) -> None:
        try:
            super()._tunnel()
        except (OSError, HTTPException) as error:
            raise ProxyError("The proxy opened no tunnel", error) from error

    def _new_conn(self) -> socket.socket:
        host = self._dns_host.strip("[]")
        try:
            connected = connect(host, self.port, self.socket_options or [], allowed_gai_family())
        except UnicodeError:
            raise LocationParseError(host) from None
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"Connecting to {self.host} timed out") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to connect to {self.host}: {error}") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return connected


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOL_CLASSES = {"http": _Pool, "https": _TLSPool}
"""For `pool_classes_by_scheme` of urllib3's managers."""
