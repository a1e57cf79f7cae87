"""Keys on the server of the tests, and what it takes to open them."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

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


class Signing:
    """What threads did that sign with one signer, and verify by themselves."""

    def __init__(self, signer: keyvouch.Signer) -> None:
        self.signer = signer
        self.failures: list[BaseException] = []
        self.ending = False
        self.count = itertools.count()
        self.signed = 0

    def run(self) -> None:
        """Sign until the end, each message another. A signature of another key, or of another message, is a failure."""
        key: Any = self.signer.public_key
        try:
            while not self.ending:
                message = b"%d" % next(self.count)
                signature = self.signer.sign(message, "ES256", timeout=15)
                r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
                key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
                self.signed += 1  # a little less where two threads meet here
        except BaseException as error:  # noqa: BLE001 - the test tells
            self.failures.append(error)

    def go_on(self) -> None:
        """Wait until a hundred more signatures are made, or one has failed."""
        wanted = self.signed + 100
        while self.signed < wanted and not self.failures:
            time.sleep(0.01)


@contextlib.contextmanager
def signing(signer: keyvouch.Signer, threads: int = 8) -> Iterator[Signing]:
    """Sign in threads while the block runs, and after it for a while."""
    work = Signing(signer)
    running = [threading.Thread(target=work.run) for _ in range(threads)]
    for each in running:
        each.start()
    try:
        work.go_on()
        yield work
        work.go_on()
    finally:
        work.ending = True
        for each in running:
            each.join()


def sign_meanwhile(signer: keyvouch.Signer, seconds: float, threads: int) -> list[BaseException]:
    """Sign in threads for so long, and return what failed."""
    with signing(signer, threads) as work:
        time.sleep(seconds)
    return work.failures
