"""What can be done to a request in place of answering it. A refusal in the service's words is in `refusals`."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from keyvouch.testing.authority.server import Response

TICK = 0.1
"""Seconds between two octets of an answer that does not end."""
PROMISED = {"Content-Type": "application/json; charset=utf-8", "Content-Length": "1000000", "Connection": "close"}


@dataclass(frozen=True)
class Fault:
    """Something that happens to a request."""


@dataclass(frozen=True)
class Drop(Fault):
    """The connection ends without an answer."""


@dataclass(frozen=True)
class Cut(Fault):
    """The connection ends in the middle of the answer."""


@dataclass(frozen=True)
class Trickle(Fault):
    """The answer never ends: an octet of it comes now and then, until the vault is told to `resume()`."""


@dataclass(frozen=True)
class Stall(Fault):
    """Nothing is said for so many seconds, or until the vault is told to `resume()`; then there is the answer."""

    seconds: float | None = None


@dataclass(frozen=True)
class Body(Fault):
    """The answer has this body, whatever was asked for: for what no vault would answer."""

    body: bytes
    status: int = 200


def play(fault: Fault, resumed: threading.Event) -> Response | None:
    """Do it; None where the request is to be answered after all. Raises an OSError to end the connection."""
    if isinstance(fault, Stall):
        resumed.wait(fault.seconds)
        return None
    if isinstance(fault, Body):
        return Response(fault.status, fault.body, {"Content-Type": "application/json; charset=utf-8"})
    if isinstance(fault, Cut):
        return Response(200, b'{"kid": "https://', PROMISED)
    if isinstance(fault, Trickle):
        return Response(200, _trickle(resumed), PROMISED)
    raise ConnectionAbortedError


def _trickle(resumed: threading.Event) -> Iterator[bytes]:
    while not resumed.wait(TICK):
        yield b" "
