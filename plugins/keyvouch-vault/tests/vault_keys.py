"""Keys on the server of the tests, and what it takes to open them."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TypeVar

import pytest

import keyvouch
from keyvouch.errors import KeyvouchError
from openbao import Server

E = TypeVar("E", bound=KeyvouchError)
_numbers = itertools.count(1)


def make_key(server: Server, kind: str = "ecdsa-p256", **more: object) -> str:
    """Make a key of its own for a test; return its URI, with the token in VAULT_TEST_TOKEN."""
    name = f"{kind}-{next(_numbers)}"
    server.write(f"transit/keys/{name}", type=kind, **more)
    return key_uri(server, name)


def key_uri(server: Server, name: str) -> str:
    return f"vault:address={server.address};key={name}?auth=token&token=env:VAULT_TEST_TOKEN&ca-file={server.ca_file}"


def token_uri(uri: str, log_in: str) -> str:
    """Return the URI with another log-in."""
    return uri.replace("auth=token&token=env:VAULT_TEST_TOKEN", log_in)


def refused(uri: str, kind: type[E]) -> E:
    """Return the error of this very kind that opening raises; it says what to do."""
    with pytest.raises(kind) as caught:
        keyvouch.open_signer(uri, timeout=10).close()
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value


def sign_meanwhile(signer: keyvouch.Signer, seconds: float, threads: int) -> list[BaseException]:
    """Sign in threads for so long, and return what failed."""
    failures, end = list[BaseException](), time.monotonic() + seconds

    def run() -> None:
        try:
            while time.monotonic() < end:
                signer.sign(b"message", "ES256", timeout=15)
        except BaseException as error:  # noqa: BLE001 - the test tells
            failures.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return failures
