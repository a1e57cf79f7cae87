"""Faults that a request can meet instead of a response. Refusals with the service's messages are in `refusals`."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from keyvouch.testing.authority.server import Response

TICK = 0.1
"""Number of seconds between two bytes of an endless response."""
PROMISED = {"Content-Type": "application/json; charset=utf-8", "Content-Length": "1000000", "Connection": "close"}


@dataclass(frozen=True)
class Fault:
    """A fault injected into a request."""


@dataclass(frozen=True)
class Drop(Fault):
    """The connection ends without a response."""


@dataclass(frozen=True)
class Cut(Fault):
    """The connection ends in the middle of the response."""


@dataclass(frozen=True)
class Trickle(Fault):
    """The response never ends: a byte arrives now and then, until the vault's `resume()` is called."""


@dataclass(frozen=True)
class Stall(Fault):
    """Nothing is sent for this many seconds, or until the vault's `resume()` is called; then the response follows."""

    seconds: float | None = None


@dataclass(frozen=True)
class Body(Fault):
    """The response has this body, whatever was requested: for responses that no vault would give.

    With `content_type="text/html"` it is the page of a gateway or proxy.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json; charset=utf-8"


def play(fault: Fault, resumed: threading.Event) -> Response | None:
    """Perform the fault; None if the request is still to be answered. Raises OSError to end the connection."""
    if isinstance(fault, Stall):
        resumed.wait(fault.seconds)
        return None
    if isinstance(fault, Body):
        return Response(fault.status, fault.body, {"Content-Type": fault.content_type})
    if isinstance(fault, Cut):
        return Response(200, b'{"kid": "https://', PROMISED)
    if isinstance(fault, Trickle):
        return Response(200, _trickle(resumed), PROMISED)
    raise ConnectionAbortedError


def _trickle(resumed: threading.Event) -> Iterator[bytes]:
    while not resumed.wait(TICK):
        yield b" "
